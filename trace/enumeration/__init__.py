"""Enumeration: finite sites that have all their values at once."""
