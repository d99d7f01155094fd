"""What is measured, and the figures: ``make bench``."""
