"""The network: a Diffusion Transformer with the four conditionings of the paper."""
