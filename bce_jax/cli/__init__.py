"""The console scripts: bce-train, bce-eval, bce-predict, bce-report, bce-sweep."""
