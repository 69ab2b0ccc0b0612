"""Many runs of a program at once, along an outer plate."""
