"""Labels from folder names, tables and attribute files."""
