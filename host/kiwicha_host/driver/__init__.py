"""The driver in C, for hosts without Python: see :mod:`kiwicha_host.emit_c`."""
