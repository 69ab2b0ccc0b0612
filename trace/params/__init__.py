"""Parameters of programs: the store, constraints, names."""
