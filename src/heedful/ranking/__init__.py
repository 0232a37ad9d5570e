"""Rankers: attention, deep averaging and the heuristics of section 5.2, one interface, one training loop."""
