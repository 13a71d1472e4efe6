"""Hyperparameters that learn: `<recipe>.yml`, one key an environment, `default` for all others."""
