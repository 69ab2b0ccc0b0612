"""Compiled steps: a loss captured once as a graph, with the scores of its draws in it."""
