"""PolicyGradient, the SB3 algorithm that runs every combination of plugins."""
