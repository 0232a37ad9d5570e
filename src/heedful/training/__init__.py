"""How a model is trained: sections 4.2 and 4.3 of the paper, and what was added to them."""
