"""Searching the settings of the embeddings and of the attention ranker, on held-out days inside the training log."""
