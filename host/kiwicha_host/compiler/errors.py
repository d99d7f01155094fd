"""What the compiler says to its users."""

__all__ = ["CompileError"]


class CompileError(ValueError):
    """A model that cannot be compiled, or a job that does not fit the chip; one line that says what is wrong."""
