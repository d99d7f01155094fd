"""The systolic array and its multipliers."""
