"""Capture: what torch's compiler makes of a loss function, with its draws and densities marked."""
