"""Families of tabular tasks, each a set of meta-train and a disjoint set of meta-test tasks.

garnet (reward heterogeneity by a knob), gridworld (goals), chain (exactly opposite gradients), and the
FrozenLake, CliffWalking and Taxi of gymnasium, read from the environments' own transition tables."""

from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from pmeta_lib.files import UserError, known
from pmeta_lib.tabular.mdp import TaskBatch, check_number, check_whole


@dataclass(frozen=True)
class Family:
    """Meta-train and meta-test tasks with a label each; UserError if a test task is a training task."""

    name: str
    train: TaskBatch
    test: TaskBatch
    train_labels: tuple[str, ...]
    test_labels: tuple[str, ...]
    alike: bool = False  #: all tasks coincide by definition (garnet at h = 0): only labels are compared

    def __post_init__(self) -> None:
        leaked = sorted(set(self.train_labels) & set(self.test_labels))
        if not self.alike:
            seen = set(_contents(self.train))
            leaked += [label for label, task in zip(self.test_labels, _contents(self.test)) if task in seen]
        if leaked:
            raise UserError(f"{self.name}: meta-test task {leaked[0]} is also a meta-train task; change seed.")


def _contents(tasks: TaskBatch) -> list[bytes]:
    return [b"".join(part.tobytes() for part in task) for task in zip(tasks.P, tasks.r, tasks.rho)]


def _split(name: str, tasks: TaskBatch, labels: list[str], n_train: int, alike: bool = False) -> Family:
    return Family(name, tasks[:n_train], tasks[n_train:], tuple(labels[:n_train]), tuple(labels[n_train:]), alike)


def _absorbing(P: np.ndarray, r: np.ndarray, states: list, pays: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """P (S, A, S) and r (S, A) after a change in place: `states` are never left and pay so much a step."""
    P[states], r[states] = np.eye(len(P))[states][:, None], pays
    return P, r


def _counts(n_train: int, n_test: int, most: float = np.inf, of: str = "") -> int:
    total = check_whole("n_train", n_train) + check_whole("n_test", n_test)
    if total > most:
        raise UserError(f"n_train + n_test = {total}, but there are only {most} {of}.")
    return total


def garnet(
    heterogeneity: float = 0.5, n_train: int = 10, n_test: int = 10, states: int = 20, actions: int = 4,
    branching: int = 3, gamma: float = 0.9, seed: int = 0,
) -> Family:  # fmt: skip
    """Random MDPs (Archibald et al., 1995) with shared dynamics: `r_i = (1 - h) r_shared + h r_own_i`.
    Each (s, a) reaches `branching` states with probabilities cut from [0, 1] at random; rewards and starts are uniform.
    At h = 0 the tasks coincide, at h = 1 their rewards are independent."""
    check_number("heterogeneity", heterogeneity, most=1)
    if not 1 <= branching <= states:
        raise UserError(f"branching is {branching}; it must lie between 1 and states = {states}.")
    N, rng = _counts(n_train, n_test), np.random.default_rng(seed)
    P = np.zeros((states, actions, states))
    next_states = rng.permuted(np.tile(np.arange(states), (states, actions, 1)), axis=-1)[..., :branching]
    np.put_along_axis(P, next_states, rng.dirichlet(np.ones(branching), (states, actions)), -1)
    shared = rng.random((states, actions))
    r = (1 - heterogeneity) * shared + heterogeneity * rng.random((N, states, actions))
    tasks = TaskBatch(np.repeat(P[None], N, 0), r, np.full((N, states), 1.0 / states), gamma)
    return _split("garnet", tasks, [f"rewards {seed}/{i}" for i in range(N)], n_train, alike=heterogeneity == 0)


def gridworld(
    size: int = 5, layout: str = "goals", n_train: int = 8, n_test: int = 8, slip: float = 0.1, gamma: float = 0.95,
    seed: int = 0,
) -> Family:  # fmt: skip
    """A size x size grid; the goal is absorbing and pays 1 a step; uniform starts; up, right, down, left.
    With probability `slip` the move goes in a random direction. layout "goals": goals drawn without replacement;
    "corners": trained on two opposite corners, tested on the other two (n_* are then 2)."""
    known("layout", layout, ("goals", "corners"), "gridworld")
    S = check_whole("size", size, least=2) ** 2
    check_number("slip", slip, most=1)
    if layout == "corners":
        n_train, goals = 2, np.array([0, S - 1, size - 1, S - size])
    else:
        goals = np.random.default_rng(seed).permutation(S)[: _counts(n_train, n_test, S, "cells")]
    cells, moves = np.stack(np.divmod(np.arange(S), size), -1), np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
    step = np.eye(S)[np.clip(cells[:, None] + moves, 0, size - 1) @ (size, 1)]  # (S, 4, S)
    empty = (1 - slip) * step + slip * step.mean(1, keepdims=True)
    P, r = map(np.stack, zip(*(_absorbing(empty.copy(), np.zeros((S, 4)), [goal], 1.0) for goal in goals)))
    tasks = TaskBatch(P, r, np.full((len(goals), S), 1.0 / S), gamma)
    return _split(f"gridworld-{layout}", tasks, [f"goal ({g // size}, {g % size})" for g in goals], n_train)


def chain(length: int = 5, slip: float = 0.1, gamma: float = 0.9) -> Family:
    """Full conflict: shared dynamics and `r_2 = 1 - r_1`, so the two gradients are exactly opposite.
    Actions go left and right along `length` states (the other way with probability `slip`); task "right" is paid
    `s/(length - 1)` in state s, task "left" the rest; start in the middle. Test tasks pay a 3:1 and a 1:3 mixture."""
    s = np.arange(check_whole("length", length, least=2))
    check_number("slip", slip, most=1)
    right, left = np.eye(length)[np.minimum(s + 1, length - 1)], np.eye(length)[np.maximum(s - 1, 0)]
    P = np.stack([(1 - slip) * left + slip * right, (1 - slip) * right + slip * left], 1)
    towards, share = (s / (length - 1))[:, None].repeat(2, 1), np.array([1.0, 0.0, 0.75, 0.25])[:, None, None]
    r = share * towards + (1 - share) * (1 - towards)
    tasks = TaskBatch(np.repeat(P[None], 4, 0), r, np.tile(np.eye(length)[length // 2], (4, 1)), gamma)
    return _split("chain", tasks, ["right", "left", "mostly right", "mostly left"], 2)


def _table(environment: str, options: dict, absorb: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P (S, A, S), raw expected rewards (S, A) and start distribution of a toy-text environment.
    Where a transition ends the episode, its target becomes absorbing and pays 0 (unless not `absorb`)."""
    if environment not in gymnasium.registry:  # rainy Taxi-v3 (gymnasium 1.2) has another table
        raise UserError(f"{environment} is not in gymnasium {gymnasium.__version__}; install constraints.txt's version")
    env: Any = gymnasium.make(environment, **options).unwrapped
    S, A = len(env.P), len(env.P[0])
    P, r, ends = np.zeros((S, A, S)), np.zeros((S, A)), set()
    for s in range(S):
        for a in range(A):
            for probability, target, reward, terminated in env.P[s][a]:
                P[s, a, target] += probability
                r[s, a] += probability * reward
                ends |= {target} if terminated else set()
    rho = np.asarray(env.initial_state_distrib, float)
    return *_absorbing(P, r, sorted(ends) if absorb else []), rho / rho.sum()


def _toy_text(name: str, tables: list, labels: list[str], n_train: int, gamma: float) -> Family:
    """Stack tables; rewards beyond [0, 1] are mapped there from their range (with 0), alike for all tasks.
    An affine map keeps the order of policies; absorbing states, which pay 0, are mapped with the rest."""
    P, r, rho = map(np.stack, zip(*tables))
    low, high = min(r.min(), 0.0), max(r.max(), 0.0)
    if low < 0 or high > 1:
        r = (r - low) / (high - low)
    return _split(name, TaskBatch(P, r, rho, gamma), labels, n_train)


def frozen_lake(
    vary: str = "goals", n_train: int = 5, n_test: int = 5, size: int = 4, gamma: float = 0.95, seed: int = 0
) -> Family:
    """FrozenLake tasks that differ in their goal (on the 4x4 map), their map, or how slippery the ice is.
    "goals": another frozen cell is the goal; "maps": gymnasium's random maps of `size`; "slip": the move succeeds
    with probability 1/3 to 1. Reward 1 on reaching the goal, start in the corner."""
    known("vary", vary, ("goals", "maps", "slip"), "frozen_lake")
    rng, lake = np.random.default_rng(seed), ["SFFF", "FHFH", "FFFH", "HFFG"]
    if vary == "slip":
        rates = rng.permutation(np.linspace(1 / 3, 1, _counts(n_train, n_test)))
        worlds = [{"desc": lake, "success_rate": float(p)} for p in rates]
        labels = [f"success rate {p:.3f}" for p in rates]
    else:
        if vary == "goals":
            flat = "".join(lake).replace("G", "F")
            frozen = [i for i, cell in enumerate(flat) if cell == "F"]
            goals = rng.permutation(frozen)[: _counts(n_train, n_test, len(frozen), "frozen cells")]
            maps = [wrap(flat[:g] + "G" + flat[g + 1 :], 4) for g in goals]
        else:
            check_whole("size", size, least=2)
            N, maps, tries = _counts(n_train, n_test), [], 0
            while len(maps) < N and tries < 100 * N:
                candidate, tries = generate_random_map(size, seed=int(rng.integers(2**31))), tries + 1
                maps += [candidate] if candidate not in maps else []
            if len(maps) < N:
                raise UserError(f"only {len(maps)} different maps of size {size} found; ask for fewer tasks.")
        worlds, labels = [{"desc": m} for m in maps], ["/".join(m) for m in maps]
    tables = [_table("FrozenLake-v1", {"is_slippery": True} | world) for world in worlds]
    return _toy_text(f"frozen-lake-{vary}", tables, labels, n_train, gamma)


def cliff_walking(n_train: int = 5, n_test: int = 5, gamma: float = 0.95, seed: int = 0) -> Family:
    """CliffWalking with slippery ground and another goal cell in each task, absorbing in place of gymnasium's.
    Rewards -100 (cliff) to 0 are mapped to [0, 1], so a step costs 0.01."""
    P, r, rho = _table("CliffWalking-v1", {"is_slippery": True}, absorb=False)
    cells = np.setdiff1d(np.arange(48), np.arange(36, 47))  # neither start nor cliff
    goals = np.random.default_rng(seed).permutation(cells)[: _counts(n_train, n_test, len(cells), "safe cells")]
    tables = [(*_absorbing(P.copy(), r.copy(), [goal]), rho) for goal in goals]
    return _toy_text("cliff-walking", tables, [f"goal ({g // 12}, {g % 12})" for g in goals], n_train, gamma)


def taxi(gamma: float = 0.95, seed: int = 0) -> Family:
    """Taxi whose destination and weather are the task (S = 125, A = 6): 4 destinations x dry or rainy.
    Gymnasium's state names the destination; here it is taken out, so that tasks with different destinations want
    different actions in the same state. Rewards -10 to 20 are mapped to [0, 1]. Half of the tasks train, half test."""
    tables, labels = [], []
    for weather in ("dry", "rainy"):
        P, r, rho = _table("Taxi-v4", {"is_rainy": weather == "rainy"})
        for destination, letter in enumerate("RGYB"):
            mine = np.arange(destination, 500, 4)  # the destination never changes: a closed set of states
            tables.append((P[np.ix_(mine, np.arange(6), mine)], r[mine], rho[mine] / rho[mine].sum()))
            labels.append(f"destination {letter}, {weather}")
    wet = np.random.default_rng(seed).permutation([0, 0, 1, 1])
    order = [d + 4 * w for d, w in enumerate(wet)] + [d + 4 * (1 - w) for d, w in enumerate(wet)]
    return _toy_text("taxi", [tables[i] for i in order], [labels[i] for i in order], 4, gamma)


FAMILIES = {f.__name__: f for f in (garnet, gridworld, chain, frozen_lake, cliff_walking, taxi)}
