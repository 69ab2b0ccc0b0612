"""Dispatch: what an op on a tracked tensor does to provenance."""
