"""What the compiler says to its users."""

__all__ = ["CompileError", "one_line"]


class CompileError(ValueError):
    """A model that cannot be compiled, or a job that does not fit the chip; one line that says what is wrong."""


def one_line(error: Exception) -> str:
    """What another library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()
