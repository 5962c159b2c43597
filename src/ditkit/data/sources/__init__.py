"""Where images come from: folders, archives, parquet tables."""
