"""Training: one loop, optimiser, checkpoints, logs."""
