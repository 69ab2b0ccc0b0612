"""The tensor that carries provenance, its storage, and reads of it by Python."""
