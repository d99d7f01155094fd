"""Registers, fetch, dispatch, semaphores, errors and counters."""
