"""What an op depends on, found by brute force: perturb its operands and see what changes."""
