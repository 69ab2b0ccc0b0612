"""Sequences: particle filters, and the bounds of the evidence that they give."""
