"""What a score is: a sum of named terms over a user's history. Torch, no folders, no log."""
