"""Recordings: the trace, the block that records it, and what is checked while it does."""
