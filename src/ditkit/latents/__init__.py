"""Latents on disk, and the way between them and images."""
