"""What a run folder holds: the names of its files, records, checkpoints, and reading them back."""
