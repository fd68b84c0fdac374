"""The training loop and its parts: optimizer, checkpoints, parallelism, monitor, runs."""
