"""Boards: clocks, memory, the way in for a host, and the flow to a bitstream."""
