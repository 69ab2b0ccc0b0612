"""Displays of a trace: tables of shapes, comparisons, values as one vector."""
