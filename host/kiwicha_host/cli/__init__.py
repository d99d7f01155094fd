"""The `kiwicha` command and what it prints."""

from .commands import main

__all__ = ["main"]
