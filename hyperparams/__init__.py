"""The hyperparameters of each recipe: `<recipe>.yml` has one entry per environment, and `default` for the others."""
