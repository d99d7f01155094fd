"""Scratchpad, accumulators and the ports that units reach them by."""
