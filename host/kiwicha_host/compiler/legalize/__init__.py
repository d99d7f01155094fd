"""From operators on codes to layers of the chip."""
