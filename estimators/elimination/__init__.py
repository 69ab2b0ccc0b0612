"""Elimination of variables: exact sums over enumerated sites."""
