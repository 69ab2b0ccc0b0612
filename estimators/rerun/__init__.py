"""Repeated runs of a program: replay, random streams, and exact moments over all outcomes."""
