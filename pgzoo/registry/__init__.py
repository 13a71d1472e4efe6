"""From names to a checked combination of plugins."""
