"""The contract with plugin authors: rollouts, parts, hyperparameters and hooks."""
