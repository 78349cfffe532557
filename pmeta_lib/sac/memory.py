"""Memory: keep what is freed in the process, and refuse sizes that cannot fit before anything is allocated.

glibc returns blocks above a threshold to the system when they are freed and faults them in again, page by page,
at the next allocation. A stacked update frees and allocates dozens of activations of a megabyte each; on a
virtual machine the page faults then cost more than the arithmetic.
"""

import ctypes
import platform

import psutil
import torch

from pmeta_lib.files import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc to recycle large blocks; True if it agreed, False on systems without glibc (nothing changes)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def check_size(gib: dict[str, float], device: str | torch.device = "cpu") -> None:
    """`UserError` if the sum of `gib` (what would be allocated, by the settings to lower) exceeds the free memory."""
    on_gpu = torch.device(device).type == "cuda"
    free = (torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available) / 2**30
    if sum(gib.values()) > free:
        largest = max(gib, key=gib.get)
        raise UserError(
            f"this run needs about {sum(gib.values()):,.1f} GiB of memory and {free:,.1f} GiB are free; "
            f"lower {largest} ({gib[largest]:,.1f} GiB), the number of tasks, or the seeds stacked together"
        )
