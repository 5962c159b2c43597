"""Checkpoints: saving, restoring, loading a trained model, post-hoc EMA."""
