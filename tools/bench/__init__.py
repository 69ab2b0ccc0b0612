"""Benchmarks: what tracking and the estimators cost, beside plain torch and Pyro."""
