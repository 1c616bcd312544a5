"""The names of the files in a run folder, each defined here and nowhere else."""

# What the run was started with, and the data it met.
CONFIG = "config.json"
DATASET = "dataset.json"
DATASET_FILES = "dataset_files.gz"  # every file of the data set, with its size and checksum
PROVENANCE = "provenance.json"

# What came of it.
METRICS = "metrics.jsonl"
RESULTS = "results.json"
TEST_OUTPUTS = "test_outputs.npz"
OLD_TEST_OUTPUTS = "judged.npz"  # what version 0.1 called it
EMBEDDINGS = "embeddings.npz"
REPORT = "report.html"
LOG = "run.log"

CHECKPOINTS = "checkpoints"
QUARANTINE = "damaged_checkpoints"  # corrupted checkpoints are moved there

# Exists while a process trains in the folder.
LOCK = "lock"
