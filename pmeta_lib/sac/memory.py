"""Keep freed memory in the process.

glibc returns blocks above a threshold to the system when they are freed and faults them in again, page by page,
at the next allocation. A stacked update frees and allocates dozens of activations of a megabyte each; on a
virtual machine the page faults then cost more than the arithmetic.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc to recycle large blocks; True if it agreed, False on systems without glibc (nothing changes)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
