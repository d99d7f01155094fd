"""Readers of other people's model files."""
