"""Memory: keep what is freed in the process, and refuse sizes that cannot fit before anything is allocated.

A stacked update frees and allocates dozens of activations of a megabyte each. glibc returns blocks of that size to the
system and faults them in again, page by page, which on a virtual machine costs more than the arithmetic."""

import ctypes
import platform

import psutil
import torch

from pmeta_lib.files import UserError
from pmeta_lib.sac.networks import Shape


def keep_freed_memory() -> None:
    """Ask glibc to recycle large blocks; on systems without glibc nothing changes."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def check_size(gib: dict[str, float], device: str | torch.device = "cpu") -> None:
    """`UserError` if the sum of `gib` (what would be allocated, by the settings to lower) exceeds the free memory."""
    on_gpu = torch.device(device).type == "cuda"
    free = (torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available) / 2**30
    total, largest = sum(gib.values()), max(gib, key=gib.get)
    if total > free:
        remedy = f"lower {largest} ({gib[largest]:,.1f} GiB), the number of tasks, or the seeds stacked together"
        raise UserError(f"this run needs about {total:,.1f} GiB of memory and {free:,.1f} GiB are free; {remedy}")


def needed(family, learner, settings, seeds: int) -> dict[str, float]:
    """GiB of a run's main consumers, by the settings to lower: an estimate, made before anything is allocated."""
    tasks, o, a = len(family.train_tasks), family.observation_size, family.action_size
    widths = (o + learner.context_size(tasks) + a, *settings.hidden, 2 * a)
    numbers = {
        "replay_capacity, steps": tasks * settings.stored * (2 * o + a + 2),
        "batch_size, hidden": tasks * 5 * settings.batch_size * sum(widths),  # activations of actor and twin critics
        "envs_per_task": tasks * 4096 * settings.envs_per_task,  # a simulator's state, roughly
        "evaluation_episodes": tasks * 4096 * settings.evaluation_episodes,
        "hidden": learner.policies(tasks) * 14 * Shape(widths).size,  # values, targets, moments, gradients
    }
    return {name: 4 * seeds * n / 2**30 for name, n in numbers.items()}
