"""A score is a sum of named terms.

A new term is one class here or beside its kin, and one line in a preset (`heedful.training.recipe`).
Training, scoring, retrieval, explanation and folders iterate `ScoreModel.terms`.

Shapes: B users, L items of a history (padded), C candidates, I items, F popularity features,
K layers of attention, M null tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from heedful.model.inputs import Inputs
from heedful.model.side_features import FeatureVectors

__all__ = ["ScoreModel", "Term"]


class Term(nn.Module):
    """One summand of the logit."""

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """What the term adds to the logit of each candidate, float [B, C]."""
        raise NotImplementedError

    def at_time(self, popularity_IF: torch.Tensor) -> torch.Tensor | None:
        """What `forward` adds for items at a time, float [I]; None for a term that depends on the user.

        Args:
            popularity_IF: features of the items' popularity at that time.
        """
        return None

    def by_history_item(self, inputs: Inputs) -> torch.Tensor | None:
        """How much of `forward` is due to each item of the history, float [B, C, L].

        The rest of `forward` is due to the candidate alone. None for a term that does not divide.
        """
        return None

    def attention(self, inputs: Inputs) -> torch.Tensor | None:
        """Attention weights float [K, B, C, L + M]; None for a term without attention."""
        return None


class ScoreModel(nn.Module):
    """The sum of some terms, behind an input layer with side features.

    Args:
        terms: the terms by name, in the order in which they are added.
        side_features: learnt vectors of item attributes, which the input layer adds to embeddings.
    """

    def __init__(self, terms: Mapping[str, Term], side_features: FeatureVectors | None = None) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.side_features = side_features

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The logit of each candidate, float [B, C]."""
        first, *others = self.contributions(inputs).values()
        for other in others:
            first = first + other
        return first

    def contributions(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """What each term adds to the logit, by name, float [B, C] each."""
        known = inputs.at_time
        return {name: known[name] if name in known else term(inputs) for name, term in self.terms.items()}

    def by_history_item(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """The terms that divide among the items of the history, float [B, C, L] each."""
        parts = {name: term.by_history_item(inputs) for name, term in self.named_terms().items()}
        return {name: part for name, part in parts.items() if part is not None}

    def attention(self, inputs: Inputs) -> torch.Tensor | None:
        """Attention weights float [K, B, C, L + M]; None where no term attends."""
        found = (term.attention(inputs) for term in self.named_terms().values())
        return next((weights for weights in found if weights is not None), None)

    def named_terms(self) -> dict[str, Term]:
        """The terms by name."""
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}
