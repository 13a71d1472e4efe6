"""Tuning: search spaces from what plugins declare, studies on Optuna."""
