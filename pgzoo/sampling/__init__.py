"""Sampling: which steps make up a rollout, and the loop that collects them."""
