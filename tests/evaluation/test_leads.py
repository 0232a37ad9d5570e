"""What a report says first: the best model of heedful beside the strongest rival."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_worlds import CUT, ShiftedRanker, noise, popularity, taste, taste_log

from heedful.evaluation.comparison import Comparison, EvaluationConfig, compare
from heedful.evaluation.leads import find_leads
from heedful.evaluation.measures import Measure
from heedful.evaluation.report import write_report
from heedful.evaluation.significance import PairedTest
from heedful.evaluation.verdicts import Verdict
from heedful.rankers.registry import ALL_MODELS

CONFIG = EvaluationConfig(pool=50, resamples=200, catalogue_users=40, max_users=80, gammas=(1.0, 0.0))


class Own(ShiftedRanker):
    is_rival = False


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    past, future = taste_log(events=8000).split(CUT)
    models = {
        "noise": noise(0),
        "taste <2>": taste(past),
        "weak": Own(past, popularity(past)),
        "strong": Own(past, taste(past, weight=0.5)),
    }
    return compare(models, future, past=past, config=CONFIG)


def test_the_best_of_both_sorts_in_each_measure(comparison: Comparison) -> None:
    leads = comparison.leads()
    assert [str(lead.measure) for lead in leads] == [
        "gamma 1, 50 negatives, NDCG", "gamma 0, 50 negatives, NDCG", "catalogue, NDCG@10"]  # fmt: skip
    for lead in leads:
        values = {name: result.best.by_user[lead.measure] for name, result in comparison.results.items()}
        means = {name: float(np.nanmean(value)) for name, value in values.items()}
        assert lead.model == max(("weak", "strong"), key=means.__getitem__)
        assert lead.rival == max(("noise", "taste <2>"), key=means.__getitem__)
        difference = means[lead.model] - means[lead.rival]
        assert lead.test.difference == pytest.approx(difference) and lead.test.low <= difference <= lead.test.high
        assert lead.better in (None, lead.model if difference > 0 else lead.rival)
    assert any(lead.better == "taste <2>" for lead in leads)


def test_the_page_the_numbers_and_the_text_begin_with_it(comparison: Comparison, tmp_path: Path) -> None:
    write_report(comparison, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    sentence = comparison.leads()[0].sentence(0.01)
    assert str(comparison).startswith(sentence) and "99 % interval [" in sentence and "best rival taste <2>" in sentence
    assert page.index("best rival taste &lt;2&gt;") < page.index("Who ranks best")
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    assert found["rivals"] == ["noise", "taste <2>"]
    assert found["leads"][0]["test"]["low"] == comparison.leads()[0].test.low


def test_a_lead_turns_the_test_and_needs_both_sorts() -> None:
    measure, test = Measure("catalogue", 0, "NDCG@10"), PairedTest(0.5, 0.25, 0.75, 0.01, 2.0, 30)
    verdicts = [Verdict(measure, "rival", "own", test, 0.02, None)]
    (lead,) = find_leads({measure: {"rival": 0.75, "own": 0.25}}, {"rival"}, verdicts)
    assert lead.test == PairedTest(-0.5, -0.75, -0.25, 0.01, -2.0, 30)
    assert lead.sentence(0.05) == (
        "catalogue, NDCG@10: own 0.2500, best rival rival 0.7500; difference -0.5000 (-66.7 %), "
        "95 % interval [-0.7500, -0.2500]; no difference is shown."
    )
    assert find_leads({measure: {"rival": 0.5}}, {"rival"}, verdicts) == []
    assert find_leads({measure: {"own": 0.5}}, {"rival"}, verdicts) == []


def test_only_the_trained_models_of_heedful_are_not_rivals() -> None:
    assert {name for name, model in ALL_MODELS.items() if not model.is_rival} == {"mixed", "attention", "averaging"}
