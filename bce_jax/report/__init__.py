"""Results and tables from the records of runs."""
