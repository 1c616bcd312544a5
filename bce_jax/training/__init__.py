"""The train state, the one train step, the loop around it and its evaluation."""
