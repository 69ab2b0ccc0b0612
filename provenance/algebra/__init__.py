"""The algebra of provenance: alignments, sets of sources, and how they join; no torch in here."""
