"""Training plumbing shared by every model: one loop, checkpoints, metrics and the window loader."""
