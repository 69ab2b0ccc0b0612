"""The demo: a sigmoid belief net on handwritten digits."""
