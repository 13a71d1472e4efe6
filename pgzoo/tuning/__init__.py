"""Tuning: search spaces from the declarations of plugins, and studies on Optuna."""
