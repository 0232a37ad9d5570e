"""Recommenders of public libraries behind the interface of `Ranker`, to compare with on the same log (extra `bench`)."""
