"""Graphs: what a model computes."""
