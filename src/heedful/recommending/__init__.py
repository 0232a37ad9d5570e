"""Rankings for requests: scores of given candidates and the best of the catalogue."""
