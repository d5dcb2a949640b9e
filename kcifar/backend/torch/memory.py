"""What becomes of memory that is freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ALWAYS = 2**31 - 1


def keep_freed_memory():
    """Lets glibc keep what the process frees, for the next batch: True where that worked.

    By default each large tensor's pages are given back to the system when it dies, and the system clears new ones for
    its successor: at a batch of 512 a third of a small CNN's step. Without glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ALWAYS) and mallopt(_M_TRIM_THRESHOLD, _ALWAYS))
