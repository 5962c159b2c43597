"""A run on disk: its folder, records, lookup by name, and how it is continued. No torch."""
