"""Relaxed draws, and the estimators of one site that are biased by them."""
