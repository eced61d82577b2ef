"""Training as published: schedule, averaging, checkpoints and the loop that yields one result per epoch."""
