"""Families and presets: tasks are fixed by construction, held out and described; bad requests are refused."""

import tracemalloc

import numpy as np
import pytest

from pmeta_lib.envs import FAMILIES, PRESETS, check_held_out, family
from pmeta_lib.envs.families import check_tasks
from pmeta_lib.files import UserError

EXPECTED = (
    "point-robot pendulum-params lunar-lander-params pendulum-flip half-cheetah-dir half-cheetah-vel ant-dir "
    "ant-goal humanoid-dir walker2d-params hopper-params"
).split()
COMBINATIONS = [(p, n) for p in PRESETS for n in FAMILIES]


def defined(name, preset):
    try:
        return family(name, preset)
    except UserError as error:
        assert "does not define" in str(error) and preset != "modern"
        return None


def test_all_families_of_the_plan_are_there():
    assert set(EXPECTED) <= set(FAMILIES)
    assert PRESETS == ("modern", "pearl2019", "promp2018", "varibad2020")
    counts = {n: (len(family(n).train_tasks), len(family(n).test_tasks), family(n).horizon) for n in FAMILIES}
    assert counts["point-robot"] == (20, 10, 20) and counts["lunar-lander-params"] == (10, 5, 400)
    assert counts["half-cheetah-dir"] == counts["ant-dir"] == counts["pendulum-flip"] == (2, 2, 200)
    rest = set(EXPECTED) - {"point-robot", "lunar-lander-params", "half-cheetah-dir", "ant-dir", "pendulum-flip"}
    assert {counts[n] for n in rest} == {(10, 5, 200)}


@pytest.mark.parametrize(("preset", "name"), COMBINATIONS)
def test_every_preset_of_every_family(preset, name):
    f = defined(name, preset)
    if f is None:
        return
    again = family(name, preset)
    assert np.array_equal(f.train_tasks, again.train_tasks) and np.array_equal(f.test_tasks, again.test_tasks)
    assert f.train_tasks.dtype == np.float64 and f.train_tasks.ndim == 2
    check_tasks(name, f.train_tasks, preset)  # the distribution stays inside its own domain
    check_tasks(name, f.sample_tasks(500, np.random.default_rng(0)), preset)
    overlap = {tuple(t) for t in f.train_tasks} & {tuple(t) for t in f.test_tasks}
    assert f.held_out == (not overlap)
    assert ("NOT held out" in f.description) == (not f.held_out)
    assert {"env", "base", "gymnasium", "mujoco"} <= set(f.versions)
    assert all(f.describe(t) for t in f.train_tasks) and f.evaluation
    assert f.action_low.shape == f.action_high.shape == (f.action_size,)


def test_a_larger_draw_begins_with_the_smaller_and_leaves_the_test_tasks_alone():
    small, large = family("half-cheetah-vel"), family("half-cheetah-vel", train=100, test=30)
    assert large.train_tasks.shape == (100, 1) and large.test_tasks.shape == (30, 1)
    assert np.array_equal(large.train_tasks[:10], small.train_tasks)
    assert np.array_equal(large.test_tasks[:5], small.test_tasks)


def test_families_draw_different_tasks_and_ranges_are_as_stated():
    rng = np.random.default_rng(0)
    draw = {n: family(n).sample_tasks(4000, rng) for n in FAMILIES}
    assert not np.allclose(family("ant-dir-graded").train_tasks, family("humanoid-dir").train_tasks)
    assert 0 <= draw["half-cheetah-vel"].min() < 0.01 and 2.99 < draw["half-cheetah-vel"].max() <= 3
    assert draw["half-cheetah-vel"].mean() == pytest.approx(1.5, abs=0.06)
    assert np.allclose(np.linalg.norm(draw["point-robot"], axis=1), 1) and (draw["point-robot"][:, 1] >= 0).all()
    radius = np.linalg.norm(draw["ant-goal"], axis=1)
    assert radius.max() <= 3 and (radius < 1.5).mean() == pytest.approx(0.25, abs=0.03)  # uniform in area
    assert 6.2 < draw["humanoid-dir"].max() < 2 * np.pi
    assert set(draw["ant-dir"][:, 0]) == {0.0, np.pi} and set(draw["pendulum-flip"][:, 0]) == {1.0, -1.0}
    for n in ("walker2d-params", "hopper-params"):
        exponent = np.log(draw[n]) / np.log(1.5)
        assert np.abs(exponent).max() <= 3 and np.allclose(exponent.std(0), 6 / np.sqrt(12), atol=0.06)


def test_presets_differ_where_the_papers_do():
    assert [family("half-cheetah-dir", p).horizon for p in PRESETS] == [200, 200, 100, 200]
    assert len(family("half-cheetah-vel", "pearl2019").train_tasks) == 100
    assert len(family("walker2d-params", "pearl2019").train_tasks) == 40
    assert len({family("half-cheetah-vel", p).evaluation for p in PRESETS}) == 4
    damping = slice(4 * 5, 4 * 5 + 6)  # hopper: 5 bodies, then 6 degrees of freedom
    draw = family("hopper-params", "pearl2019").sample_tasks(500, np.random.default_rng(0))
    assert draw[:, damping].max() <= 1.3**3 < draw.max() <= 1.5**3
    with pytest.raises(UserError, match="pearl2019 does not define pendulum-flip; it has: point-robot"):
        family("pendulum-flip", "pearl2019")


def test_leakage_is_refused():
    f = family("half-cheetah-vel")
    check_held_out(f.train_tasks, f.test_tasks)
    mixed = np.vstack([f.test_tasks, f.train_tasks[3:4]])
    with pytest.raises(UserError, match="my run: test task 5 is training task 3"):
        check_held_out(f.train_tasks, mixed, where="my run")
    check_held_out(f.train_tasks, mixed, allowed=True)


def test_many_tasks_are_compared_in_little_memory():
    """The comparison of 20,000 x 200 tasks of 65 numbers, all at once, would take 2 GiB."""
    rng = np.random.default_rng(0)
    train, test = rng.random((20_000, 65)), rng.random((200, 65))
    tracemalloc.start()
    check_held_out(train, test)
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    test[150] = train[19_999]
    with pytest.raises(UserError, match="test task 150 is training task 19999"):
        check_held_out(train, test)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: family("half-cheeta-dir"), "unknown task family 'half-cheeta-dir'. Did you mean 'half-cheetah-dir'"),
        (lambda: family("ant-dir", "pearl2018"), "unknown preset 'pearl2018'. Did you mean 'pearl2019'"),
        (lambda: family("ant-dir", train=10), "exactly 2 tasks"),
        (lambda: family("ant-goal", train=0), "train = 0"),
        (lambda: family("ant-goal", train=10**9), "train = 1000000000: .* at most 100000"),
        (lambda: family("ant-goal", test=2.5), "test = 2.5"),
        (lambda: check_tasks("ant-goal", np.zeros((3, 1))), r"shape \(3, 1\); needs \(number of slots, 2\)"),
        (lambda: check_tasks("ant-goal", np.zeros(2)), r"shape \(2,\)"),
        (lambda: check_tasks("ant-goal", [[0, 0], [np.nan, 0]]), "row 1 is not finite"),
        (lambda: check_tasks("half-cheetah-dir", [[1], [0.5]]), r"row 1 must be \+1 or -1"),
        (lambda: check_tasks("pendulum-params", [[10, 1, 0]]), "row 0 must be above 0"),
        (lambda: check_tasks("lunar-lander-params", [[-12, 0, 0]]), "gravity between -12 and 0"),
    ],
)
def test_bad_requests_say_what_is_wrong(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
