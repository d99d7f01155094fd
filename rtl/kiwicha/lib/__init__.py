"""What every unit is built from: streams, pipeline delays, loop nests, arbiters."""
