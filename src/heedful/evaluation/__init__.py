"""Honest comparison: metrics, candidate pools made once for all models, paired differences."""
