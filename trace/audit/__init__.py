"""The audit: a second, independent account of what a recording follows."""
