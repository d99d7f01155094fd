"""From what is computed to instructions: tiles, buffers, order."""
