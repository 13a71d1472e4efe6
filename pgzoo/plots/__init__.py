"""Learning curves of run folders: reading logs, grouping seeds, and drawing figures or text."""
