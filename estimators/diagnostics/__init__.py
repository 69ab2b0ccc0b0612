"""Diagnostics of training: the variance of the gradient, measured while it goes on."""
