"""Families: disjoint splits, knobs that do what they say, gymnasium's own tables."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from pmeta_lib.tabular import conflict_rate, optimal_values, policy_gradients, values
from pmeta_lib.tabular.families import FAMILIES, chain, cliff_walking, frozen_lake, garnet, gridworld, taxi

ALL = {
    **FAMILIES,
    "corners": lambda: gridworld(layout="corners"),
    "maps": lambda: frozen_lake("maps"),
    "slip": lambda: frozen_lake("slip"),
}


@pytest.mark.parametrize("name", ALL)
def test_train_and_test_never_overlap_and_can_be_learned(name):
    family = ALL[name]()
    train, test = family.train, family.test
    for i in range(len(test)):
        for j in range(len(train)):
            same = [np.array_equal(getattr(test, k)[i], getattr(train, k)[j]) for k in ("P", "r", "rho")]
            assert not all(same), f"{name}: test task {i} is training task {j}"
    assert not set(family.train_labels) & set(family.test_labels)
    assert len(family.train_labels) == len(train) and len(family.test_labels) == len(test)
    for tasks in (train, test):
        assert tasks.r.min() >= 0 and tasks.r.max() <= 1
        gap = optimal_values(tasks) - values(tasks, np.zeros(tasks.shape[1:]))
        assert (gap > 1e-3).all(), f"{name}: a task without anything to learn"


def test_a_leak_is_refused():
    family = gridworld()
    with pytest.raises(ValueError, match="also a meta-train task"):
        dataclasses.replace(family, test=family.train)
    with pytest.raises(ValueError, match="also a meta-train task"):
        dataclasses.replace(family, test_labels=family.train_labels)


def test_garnet_knob():
    alike = garnet(0.0).train
    assert np.ptp(alike.r, axis=0).max() == 0 and conflict_rate(alike, np.zeros((20, 4))) == 0
    rates = [np.mean([conflict_rate(garnet(h, seed=s).train, np.zeros((20, 4))) for s in range(5)])
             for h in (0.25, 0.75, 1.0)]  # fmt: skip
    assert rates[0] < rates[1] < rates[2] and rates[2] > 0.3
    assert (np.count_nonzero(garnet(branching=3).train.P, axis=-1) == 3).all()
    np.testing.assert_array_equal(garnet(seed=4).train.P, garnet(seed=4).train.P)
    assert not np.array_equal(garnet(seed=4).train.P, garnet(seed=5).train.P)


def test_chain_gradients_are_exactly_opposite():
    tasks = chain(7).train
    g = policy_gradients(tasks, np.random.default_rng(0).normal(size=(7, 2)))
    assert np.abs(g[0]).max() > 1e-3
    np.testing.assert_allclose(g[0], -g[1], atol=1e-13)


def gym_table(name, **options):
    """P (S, A, S), raw rewards (S, A), which transitions end the episode, and start distribution, by plain loops."""
    newest = max(n for n in gymnasium.registry if n.startswith(name + "-v"))
    env = gymnasium.make(newest, **options).unwrapped
    S, A = len(env.P), len(env.P[0])
    P, r, ends = np.zeros((S, A, S)), np.zeros((S, A)), np.zeros((S, A, S), bool)
    for s in range(S):
        for a in range(A):
            for p, target, reward, over in env.P[s][a]:
                P[s, a, target] += p
                r[s, a] += p * reward
                ends[s, a, target] |= over
    return P, r, ends, np.asarray(env.initial_state_distrib)


def every_task(family):
    for tasks, labels in ((family.train, family.train_labels), (family.test, family.test_labels)):
        yield from zip(labels, tasks.P, tasks.r, tasks.rho)


@pytest.mark.parametrize("vary", ["goals", "maps", "slip"])
def test_frozen_lakes_are_gymnasiums_tables(vary):
    for label, P, r, rho in every_task(frozen_lake(vary)):
        slip = vary == "slip"
        options = {"success_rate": float(label.split()[-1])} if slip else {"desc": label.split("/")}
        table, reward, _, start = gym_table("FrozenLake", is_slippery=True, **options)
        atol = 1e-3 if slip else 0  # a rate's label has three digits
        np.testing.assert_allclose(P, table, rtol=0, atol=atol)
        np.testing.assert_allclose(r, reward, rtol=0, atol=atol)
        np.testing.assert_array_equal(rho, start)


def test_cliffs_are_gymnasiums_table_but_for_the_goal():
    table, reward, _, start = gym_table("CliffWalking", is_slippery=True)
    for label, P, r, rho in every_task(cliff_walking()):
        y, x = map(int, label.removeprefix("goal (").removesuffix(")").split(","))
        others = np.arange(48) != 12 * y + x
        np.testing.assert_array_equal(P[others], table[others])
        np.testing.assert_allclose(100 * r[others] - 100, reward[others], atol=1e-11)
        np.testing.assert_array_equal(rho, start)
        assert (P[~others][0, :, ~others] == 1).all() and np.allclose(r[~others], 1.0)


def test_taxis_are_gymnasiums_table_without_the_destination():
    tables = {weather: gym_table("Taxi", is_rainy=weather == "rainy") for weather in ("dry", "rainy")}
    for label, P, r, rho in every_task(taxi()):
        _, letter, weather = label.replace(",", "").split()
        table, reward, ends, start = tables[weather]
        mine = np.arange("RGYB".index(letter), 500, 4)
        live = ~ends.any((0, 1))[mine]
        np.testing.assert_array_equal(P[live], table[np.ix_(mine, range(6), mine)][live])
        np.testing.assert_allclose(30 * r[live] - 10, reward[mine][live], atol=1e-12)
        np.testing.assert_allclose(rho, start[mine] / start[mine].sum())
        assert np.allclose(30 * r[~live], 10) and not rho[~live].any()  # absorbing, raw reward 0


def test_frozen_lake_return_is_that_of_gymnasium_rollouts():
    """Random play in the real environment reaches the goal as often as our values say (gamma near 1)."""
    family = frozen_lake("slip", n_train=1, n_test=1, gamma=0.9999)
    rate = float((family.train_labels + family.test_labels)[0].split()[-1])
    env = gymnasium.make("FrozenLake-v1", success_rate=rate)
    env.action_space.seed(0)
    hits, n = 0.0, 1500
    env.reset(seed=0)
    for _ in range(n):
        env.reset()
        over = False
        while not over:
            _, reward, over, cut, _ = env.step(env.action_space.sample())
            hits, over = hits + reward, over or cut
    expected = values(family.train, np.zeros((16, 4)))[0]
    assert abs(hits / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 1e-3


def test_the_old_goal_of_the_cliff_is_open():
    for label, P, r, _ in every_task(cliff_walking()):
        assert label == "goal (3, 11)" or P[47, 0, 35] > 0
        assert r.min() == 0.0  # the cliff


def test_taxi_optimal_return_is_that_of_gymnasiums_full_table():
    """The destination taken out of the state: our tasks' optimal returns, mapped back, average to the original."""
    family, gamma = taxi(), 0.95
    dry = [i for i, x in enumerate(family.train_labels + family.test_labels) if x.endswith("dry")]
    ours = np.concatenate([optimal_values(family.train), optimal_values(family.test)])[dry].mean()
    P, r, ends, start = gym_table("Taxi")
    P[ends] = 0.0  # an episode's end is a transition to nowhere
    V = np.zeros(500)
    for _ in range(600):
        V = (r + gamma * P @ V).max(1)
    original = start @ V
    low, high = r.min(), r.max()
    assert ours * (high - low) + low / (1 - gamma) == pytest.approx(original, abs=1e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: garnet(1.5), "heterogeneity"), (lambda: garnet(branching=99), "branching"),
        (lambda: gridworld(layout="maze"), "layout"), (lambda: gridworld(n_train=20, n_test=20), "only 25 cells"),
        (lambda: frozen_lake("ice"), "vary"), (lambda: garnet(n_train=0), "n_train"),
        (lambda: garnet("0.5"), "heterogeneity"), (lambda: garnet(n_test=2.5), "n_test"),
        (lambda: frozen_lake("maps", size=1), "size is 1"), (lambda: frozen_lake("maps", size=2), "only 3 different"),
        (lambda: chain(1), "length is 1"), (lambda: gridworld(slip=2), "slip"),
        (lambda: gridworld(size=1), "size is 1"),
    ],
)  # fmt: skip
def test_bad_options_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_moves_go_where_they_say():
    P = chain(5, slip=0.1).train.P[0]
    assert P[2, 1, 3] == pytest.approx(0.9) and P[2, 0, 1] == pytest.approx(0.9)
    assert P[2, 1, 1] == pytest.approx(0.1) and P[0, 0, 0] == pytest.approx(0.9)
    world = gridworld(layout="corners", slip=0.2).train  # goals (0, 0) and (4, 4); the centre is state 12
    for action, cell in enumerate((7, 13, 17, 11)):  # up, right, down, left
        assert world.P[0, 12, action, cell] == pytest.approx(0.8 + 0.05)
    assert (world.P[0, 0, :, 0] == 1).all() and (world.r[0, 0] == 1).all() and world.r[0, 1:].max() == 0
