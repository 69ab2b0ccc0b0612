"""The tensor that carries provenance, its storage, and what Python reads of it."""
