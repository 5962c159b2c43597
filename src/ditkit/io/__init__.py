"""Files, folders, locks, downloads, text: each small tool once."""
