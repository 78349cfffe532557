"""The stacked ring buffer: wrap-around, uniform draws, separate streams, impossible sizes."""

import numpy as np
import pytest
import torch
from scipy import stats

from pmeta_lib.envs import family
from pmeta_lib.files import UserError
from pmeta_lib.sac.memory import needed
from pmeta_lib.sac.replay import Replay
from pmeta_lib.sac.settings import FIELD, Settings

S, N, O, A = 2, 3, 2, 1


def filled(count, capacity=7):
    """A replay in which slot (s, i)'s transition number t carries 100 s + 10 i + t / 1000 everywhere."""
    replay = Replay(S, N, capacity, O, A)
    slot = 100.0 * torch.arange(S)[:, None] + 10.0 * torch.arange(N)
    for t in range(count):
        x = slot + t / 1000
        wide = x[..., None].expand(S, N, O)
        replay.add(wide, x[..., None], x, torch.full((S, N), t % 2.0), wide + 1)
    return replay


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def times(batch):
    return torch.round((batch.reward % 10) * 1000).long()


def test_rows_come_back_as_they_were_stored():
    batch = filled(5).sample(64, generators(0, 1))
    for s in range(S):
        for i in range(N):
            assert (batch.reward[s, i] // 10 == 10 * s + i).all()  # nothing from another slot
    value = batch.reward.unsqueeze(-1)
    assert torch.equal(batch.observation, value.expand_as(batch.observation))
    assert torch.equal(batch.action, value) and torch.equal(batch.next_observation, batch.observation + 1)
    assert torch.equal(batch.pair, torch.cat((batch.observation, batch.action), -1))
    assert torch.equal(batch.terminated, times(batch) % 2.0)


@pytest.mark.parametrize("count, present", [(1, {0}), (5, set(range(5))), (7, set(range(7))), (16, set(range(9, 16)))])
def test_ring_keeps_the_newest_and_draws_from_nothing_else(count, present):
    replay = filled(count)
    assert len(replay) == len(present)
    assert set(times(replay.sample(400, generators(0, 1))).flatten().tolist()) == present


@pytest.mark.parametrize("envs, steps", [(2, 4), (3, 5), (7, 3), (5, 2)])
def test_several_transitions_at_once_are_stored_as_one_after_the_other(envs, steps):
    together, single = Replay(S, N, 7, O, A), Replay(S, N, 7, O, A)
    for t in range(steps):
        x = (100.0 * torch.arange(S * N * envs) + t).view(S, N, envs)
        wide = x[..., None].expand(S, N, envs, O)
        together.add(wide, x[..., None], x, x % 2, wide + 1)
        for e in range(envs):
            single.add(wide[:, :, e], x[:, :, e, None], x[:, :, e], x[:, :, e] % 2, wide[:, :, e] + 1)
        assert torch.equal(together.last[..., 0], x)
    assert torch.equal(together.rows, single.rows) and len(together) == len(single) and together.added == single.added


def test_draws_are_uniform_and_independent_of_each_other():
    drawn = times(filled(12, capacity=10).sample(20_000, generators(3, 4)))
    for s in range(S):
        for i in range(N):
            assert stats.chisquare(np.bincount(drawn[s, i] - 2, minlength=10)).pvalue > 1e-4
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    table = np.histogram2d(drawn[0, 0, :-1].numpy(), drawn[0, 0, 1:].numpy(), bins=10)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4  # one draw says nothing about the next


def test_every_seed_draws_from_its_own_generator():
    first, second = filled(7).sample(50, generators(0, 1)), filled(7).sample(50, generators(0, 2))
    assert torch.equal(first.reward[0], second.reward[0])
    assert not torch.equal(first.reward[1], second.reward[1])


def test_restored_ring_continues_as_the_old_one():
    old, new = filled(10), Replay(S, N, 7, O, A)
    new.restore(old.rows[:, :, : len(old)].clone(), old.added)
    for replay in (old, new):
        x = torch.full((S, N), 5.0)
        replay.add(x[..., None].expand(S, N, O), x[..., None], x, x * 0, x[..., None].expand(S, N, O))
    assert torch.equal(old.rows, new.rows)
    assert torch.equal(old.sample(30, generators(0, 1)).reward, new.sample(30, generators(0, 1)).reward)


def test_a_replay_too_large_for_the_memory_is_refused_at_once():
    with pytest.raises(UserError, match=r"GiB.*lower the replay's capacity"):
        Replay(10, 100, 10**8, 105, 8)


def test_twenty_half_cheetah_tasks_of_100_000_steps_take_less_than_1_5_gib():
    rows = Replay(1, 20, 10, 17, 6).rows
    assert rows.element_size() * rows.shape[-1] * 20 * 100_000 < 1.5 * 2**30


def test_ten_slots_of_a_million_half_cheetah_transitions_take_less_than_2_gib():
    made, settings = family("half-cheetah-dir"), Settings(**FIELD, steps=1_000_000)
    gib = needed(made, settings, 5, 2, settings.steps, 10, made.observation_size)
    assert sum(gib.values()) < 2
    rows = Replay(5, 2, 10, 17, 6).rows
    assert gib["replay_capacity, steps"] == pytest.approx(rows.nbytes * 100_000 / 2**30)
