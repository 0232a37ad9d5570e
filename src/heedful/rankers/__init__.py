"""Rankers: item ids and histories in, scores out; fitting, scoring and model folders."""
