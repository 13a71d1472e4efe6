"""Trained agents, one run folder `<recipe>/<environment>_1` per agent. `benchmarks/agents.py` copies them here."""
