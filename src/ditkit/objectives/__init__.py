"""What the network is trained to predict: one file an objective, each defining `objective(config)`."""
