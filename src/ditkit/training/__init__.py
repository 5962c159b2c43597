"""The training loop and all that one run of it needs."""
