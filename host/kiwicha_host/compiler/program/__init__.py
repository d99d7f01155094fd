"""Programs: instructions and semaphores, loop nests, memory maps, packed data."""
