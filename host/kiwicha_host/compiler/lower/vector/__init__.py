"""Layers of the vector unit alone."""
