"""Baselines: quantities subtracted from a downstream cost to lower the variance of its product.

A baseline is called with the credit of a site and returns a tensor, [], or with as many dimensions
as the site. It must not depend on the very draw whose score it is multiplied with: then
E[∇ log q(z) · b] = b · E[∇ log q(z)] = 0. Each docstring says why it does not; of what a user
writes, `ancestral.estimators.gradient.subtraction` proves it.
"""
