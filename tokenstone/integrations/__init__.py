"""Callbacks that record the loops of other libraries. Each file imports its library and is imported by hand alone."""
