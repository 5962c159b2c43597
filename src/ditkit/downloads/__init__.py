"""Files from elsewhere: one from a web address, or those of a repository on the hub. Whole and checked, or absent."""
