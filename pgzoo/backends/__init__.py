"""Backends: how a policy is evaluated and its parameters are stepped."""
