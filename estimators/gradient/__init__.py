"""The gradient: from a recorded loss to the surrogate, with credit for each element."""
