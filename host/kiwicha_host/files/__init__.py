"""Arrays from and to ``.npy`` files and pipes: one line for what is wrong, and files whole or absent.

"-" is standard input or output. What is no file on a disk (a pipe, a device, an open descriptor) is a stream: it
is read from its start to its end, once, and written as it is; a file is replaced when all of it has been written.
"""

from .names import FileProblem, check_inputs, is_stdout, is_stream
from .reading import read_array, read_lines, read_model
from .writing import (
    check_folder,
    check_writable,
    make_folder,
    replacing,
    write_array,
    write_arrays,
    write_texts,
)

__all__ = ["FileProblem", "check_folder", "check_inputs", "check_writable", "is_stdout", "is_stream",
           "make_folder", "read_array", "read_lines", "read_model", "replacing", "write_array", "write_arrays",
           "write_texts"]
