"""Training runs: configuration, environments, evaluation and run folders."""
