"""Keeps a library from leaving the calling thread an alternate signal stack."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Puts the thread's alternate signal stack back as it was.

    OpenVINO installs one on CPUs with AMX that is too small: two saved register states do not fit, and a signal that
    Python handles (a child that ends, Ctrl-C) can then crash the process. Without one, handlers run on the thread's
    own stack, which has room.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
