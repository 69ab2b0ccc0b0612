"""Other packages on the same toys, each tried where it is installed."""
