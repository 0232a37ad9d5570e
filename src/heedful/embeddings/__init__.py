"""Item embeddings: the table, skip-gram training (section 3 of the paper), and import of other tables."""
