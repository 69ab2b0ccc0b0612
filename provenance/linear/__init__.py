"""Linear ops: what a loss is taken apart by, and the transposes of that."""
