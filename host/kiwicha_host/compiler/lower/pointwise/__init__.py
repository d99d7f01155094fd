"""Layers that make each place of the same place alone: groups of places go through them as through a pipeline."""
