"""Linear ops: the forms by which a loss is taken apart, and their transposes."""
