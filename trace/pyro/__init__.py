"""Pyro programs in recordings: their statements become those of the library."""
