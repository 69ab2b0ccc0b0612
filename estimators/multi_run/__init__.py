"""Estimators that run a program more than once, each of one site, all unbiased."""
