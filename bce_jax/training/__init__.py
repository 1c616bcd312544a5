"""Training: the train state, the one train step for all methods, and the loop around it."""
