"""The table of config keys: a file for each group, with the rules between its keys."""
