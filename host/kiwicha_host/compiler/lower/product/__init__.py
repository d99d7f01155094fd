"""Products of tiles that come from memory, whatever they are tiles of."""
