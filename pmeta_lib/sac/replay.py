"""Stacked replay buffer: one ring a slot, all filled in lockstep; one gather a batch, whose parts are views, because a
transition is one row `[observation | action | reward | terminated | next observation]`."""

from typing import NamedTuple

import torch
from torch import Tensor

from pmeta_lib.sac.memory import check_size


class Batch(NamedTuple):
    """Views into the gathered rows; leading axes are the caller's. `pair` is observation and action side by side."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_observation: Tensor
    pair: Tensor


def split(rows: Tensor, observation_size: int, action_size: int) -> Batch:
    """Rows (..., width) as a `Batch` of views."""
    o, a = observation_size, action_size
    return Batch(rows[..., :o], rows[..., o : o + a], rows[..., o + a], rows[..., o + a + 1],
                 rows[..., o + a + 2 :], rows[..., : o + a])  # fmt: skip


class Replay:
    """`seeds x tasks` rings of `capacity` transitions, float32, drawn from with one generator a seed."""

    def __init__(self, seeds: int, tasks: int, capacity: int, observation_size: int, action_size: int, device="cpu"):
        width = 2 * observation_size + action_size + 2
        gib = {f"the replay's capacity of {capacity:,} steps": seeds * tasks * capacity * width * 4 / 2**30}
        check_size(gib, device)  # zeros take no memory until they are written, so that the allocation would succeed
        self.rows = torch.zeros(seeds, tasks, capacity, width, device=device)
        self.sizes = (observation_size, action_size)
        self.added = 0
        self.last = self.rows[:, :, :0]  # (S, N, E, width), the latest addition
        self._filled = torch.zeros((), dtype=torch.float64, device=device)  # on the device, for captured graphs
        self._base = (torch.arange(seeds * tasks, device=device) * capacity).view(seeds, tasks, 1)

    def __len__(self) -> int:
        return min(self.added, self.rows.shape[2])

    def add(self, observation: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, next_observation: Tensor):
        """Store E transitions a slot: arguments (S, N, E, ·), rewards and flags (S, N, E); without the E, one."""
        parts = (observation, action, reward.unsqueeze(-1), terminated.unsqueeze(-1), next_observation)
        self.last = torch.cat(parts, -1).view(*self.rows.shape[:2], -1, self.rows.shape[3])
        capacity, count = self.rows.shape[2], self.last.shape[2]
        at = self.added % capacity
        self.rows[:, :, at : at + count] = self.last[:, :, : capacity - at]
        if at + count > capacity:
            self.rows[:, :, : at + count - capacity] = self.last[:, :, capacity - at :]
        self.added += count
        self._filled.fill_(len(self))

    def restore(self, rows: Tensor, added: int) -> None:
        """Put back `rows (S, N, filled, width)` as saved after `added` additions."""
        self.rows[:, :, : rows.shape[2]] = rows
        self.added = added
        self._filled.fill_(len(self))

    def sample(self, n: int, generators: list[torch.Generator]) -> Batch:
        """`n` transitions a slot, uniform with replacement: a Batch with leading axes (S, N, n)."""
        tasks, _, width = self.rows.shape[1:]
        uniform = [torch.rand(tasks, n, dtype=torch.float64, generator=g, device=g.device) for g in generators]
        index = torch.stack(uniform).mul_(self._filled).long().add_(self._base)
        rows = self.rows.view(-1, width).index_select(0, index.view(-1))
        return split(rows.view(*index.shape, width), *self.sizes)
