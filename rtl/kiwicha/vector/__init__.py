"""Accumulators to results: bias, scale, clamp, pool, convert."""
