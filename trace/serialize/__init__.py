"""Traces as plain data, and in files."""
