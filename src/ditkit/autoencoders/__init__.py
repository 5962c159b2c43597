"""How images become what the transformer sees: one file an autoencoder, each defining `autoencoder(config)`."""
