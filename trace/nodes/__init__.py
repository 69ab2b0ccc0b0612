"""Nodes: the sites of a run, their distributions, values and densities."""
