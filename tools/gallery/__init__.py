"""Gallery: packages that sample, each with a small model, in an environment apart."""
