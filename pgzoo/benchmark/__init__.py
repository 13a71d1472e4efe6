"""Benchmarks: recipes and peers on environments with several seeds, and a report with intervals."""
