"""The rules of alignment, one file for each family of ops."""
