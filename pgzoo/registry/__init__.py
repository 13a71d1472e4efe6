"""From names and values to a checked combination of plugins."""
