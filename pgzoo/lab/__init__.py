"""The gradient lab: exact gradients, measured bias and variance, and a conformance kit for plugins."""
