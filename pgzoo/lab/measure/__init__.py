"""Exact gradients, and the measured bias and variance of plugins."""
