"""Inference: bounds, importance weights, predictions, and checks of guides."""
