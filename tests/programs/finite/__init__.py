"""Random programs of finite sites, and sums over all of their joint values."""
