"""Pathwise: the gradient through the values of draws, where some parts of a loss take it."""
