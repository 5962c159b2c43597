"""Sampling, guidance, editing, interpolation and animation."""
