"""LOAD and STORE: between memory and the scratchpad."""
