"""The door: one file per command; everything slow is imported inside the commands."""
