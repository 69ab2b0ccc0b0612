"""Benchmarks: the cost of tracking and of the estimators, beside plain torch and Pyro."""
