"""Other people's weights, in and out: one file a format."""
