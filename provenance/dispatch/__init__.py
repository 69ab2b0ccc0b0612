"""Dispatch: the effect of an op on the provenance of its results and operands."""
