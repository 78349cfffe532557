"""Exact values and policy gradients of N tasks at once, against loops over the tasks, in one run.

examples:
  pmeta bench tabular                  the four standard sizes and the growth with N and S
  pmeta bench tabular --quick          fewer repetitions
  pmeta bench tabular --json out.json  every number also to a file

Peers: `python`, lists and loops, one LU factorization a task; `numpy loop`, the fastest per-task vectorized
NumPy we could write: the better of two solves and of one shared SciPy factorization. All give the same
gradients to 1e-9, which is checked first. One core, CPU time; a ratio is the median over rounds of peer / ours,
each pair timed side by side. `LAPACK` is the share of our time inside factorization and solves.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from tqdm import tqdm

from pmeta_lib.files import UserError, json_text
from pmeta_lib.tabular import TaskBatch, policy_gradients, softmax
from pmeta_lib.tabular.mdp import Factorization, under_policy

SIZES = [(20, 49, 4), (100, 20, 4), (100, 100, 5), (500, 20, 4)]
GROWTH = [(n, 20, 4) for n in (25, 50, 100, 200, 400, 800)] + [(50, s, 4) for s in (10, 20, 40, 80, 160)]


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `pmeta bench tabular`."""
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds a size (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three rounds, no plain Python, no growth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")


def random_tasks(N: int, S: int, A: int, seed: int = 0, gamma: float = 0.9) -> tuple[TaskBatch, np.ndarray]:
    """Dense random MDPs and one random policy for each."""
    rng = np.random.default_rng(seed)
    P = rng.random((N, S, A, S))
    P /= P.sum(-1, keepdims=True)
    tasks = TaskBatch(P, rng.random((N, S, A)), np.full((N, S), 1.0 / S), gamma)
    return tasks, rng.standard_normal((N, S, A))


def numpy_loop(tasks: TaskBatch, theta: np.ndarray, shared_lu: bool = False) -> np.ndarray:
    """(N, S, A) gradients, one vectorized task after the other."""
    out, eye = np.empty(tasks.shape), np.eye(tasks.shape[1])
    for i, (P, r, rho, x) in enumerate(zip(tasks.P, tasks.r, tasks.rho, theta)):
        z = np.exp(x - x.max(1, keepdims=True))
        pi = z / z.sum(1, keepdims=True)
        M = eye - tasks.gamma * np.einsum("sa,sat->st", pi, P)
        r_pi = (pi * r).sum(1)
        if shared_lu:
            lu = scipy.linalg.lu_factor(M, check_finite=False, overwrite_a=True)
            V = scipy.linalg.lu_solve(lu, r_pi, check_finite=False)
            D = scipy.linalg.lu_solve(lu, rho, trans=1, check_finite=False)
        else:
            V, D = np.linalg.solve(M, r_pi), np.linalg.solve(M.T, rho)
        out[i] = D[:, None] * pi * (r + tasks.gamma * (P @ V) - V[:, None])
    return out


def plain_python(P: list, r: list, rho: list, theta: list, gamma: float) -> list:
    """The same of nested lists, with one LU factorization a task and no library at all.

    No pivoting: I - gamma P_pi is strictly diagonally dominant by rows.
    """
    from math import exp

    gradients = []
    for Pi, ri, rhoi, thetai in zip(P, r, rho, theta):
        S = len(rhoi)
        pi = []
        for row in thetai:
            top = max(row)
            z = [exp(x - top) for x in row]
            total = sum(z)
            pi.append([x / total for x in z])
        M, r_pi = [], []
        for s in range(S):
            line = [0.0] * S
            for p, target in zip(pi[s], Pi[s]):
                weight = -gamma * p
                line = [m + weight * q for m, q in zip(line, target)]
            line[s] += 1.0
            M.append(line)
            r_pi.append(sum(p * x for p, x in zip(pi[s], ri[s])))
        for k in range(S):  # in place: L below the diagonal, U on and above it
            pivot, tail = M[k][k], M[k][k + 1 :]
            for line in M[k + 1 :]:
                factor = line[k] = line[k] / pivot
                line[k + 1 :] = [a - factor * b for a, b in zip(line[k + 1 :], tail)]
        V = list(r_pi)
        for s in range(S):
            V[s] -= sum(a * b for a, b in zip(M[s][:s], V[:s]))
        for s in reversed(range(S)):
            V[s] = (V[s] - sum(a * b for a, b in zip(M[s][s + 1 :], V[s + 1 :]))) / M[s][s]
        columns = list(zip(*M))
        D = list(rhoi)
        for s in range(S):
            D[s] = (D[s] - sum(a * b for a, b in zip(columns[s][:s], D[:s]))) / M[s][s]
        for s in reversed(range(S)):
            D[s] -= sum(a * b for a, b in zip(columns[s][s + 1 :], D[s + 1 :]))
        gradients.append(
            [
                [
                    D[s] * p * (x + gamma * sum(q * v for q, v in zip(target, V)) - V[s])
                    for p, x, target in zip(pi[s], ri[s], Pi[s])
                ]
                for s in range(S)
            ]
        )
    return gradients


def _seconds(call) -> float:
    start = time.process_time()  # of this process: a busy machine does not count
    call()
    return time.process_time() - start


def measure(size: tuple[int, int, int], rounds: int, python: bool, loops: bool = True) -> dict:
    """Times of one size, side by side in each round; ratios are peer / ours, medians over rounds."""
    N, S, A = size
    tasks, theta = random_tasks(N, S, A)
    ours = policy_gradients(tasks, theta)
    system, reward = under_policy(tasks, softmax(theta))

    def lapack() -> None:
        factors = Factorization(system)
        factors.solve(reward)
        factors.solve(tasks.rho, transposed=True)

    calls = {"stacked": lambda: policy_gradients(tasks, theta), "lapack": lapack}
    if loops:
        calls |= {"two solves": lambda: numpy_loop(tasks, theta), "one LU": lambda: numpy_loop(tasks, theta, True)}
    if python:
        lists = (tasks.P.tolist(), tasks.r.tolist(), tasks.rho.tolist(), theta.tolist(), tasks.gamma)
        calls["python"] = lambda: plain_python(*lists)
        np.testing.assert_allclose(plain_python(*lists), ours, atol=1e-9)
    if loops:
        for shared in (False, True):
            np.testing.assert_allclose(numpy_loop(tasks, theta, shared), ours, atol=1e-9)
    slow = {"python": min(rounds, 3)}
    times = {name: [] for name in calls}
    for k in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            if k <= slow.get(name, rounds):
                times[name].append(_seconds(call))
    t = {name: np.array(v[1:]) for name, v in times.items()}
    out = {"N": N, "S": S, "A": A, "ms": 1e3 * float(np.median(t["stacked"]))}
    out["lapack_share"] = float(np.median(t["lapack"] / t["stacked"]))
    if loops:
        loop = np.minimum(t["two solves"], t["one LU"]) / t["stacked"]
        out |= {
            "x_numpy_loop": float(np.median(loop)),
            "x_numpy_low": float(loop.min()),
            "x_numpy_high": float(loop.max()),
        }
    if python:
        out["x_python"] = float(np.median(t["python"] / t["stacked"][: len(t["python"])]))
    return out


def main(args: argparse.Namespace) -> int:
    """Pin to one core, measure, print."""
    if args.rounds < 1:
        raise UserError(f"--rounds is {args.rounds}; it must be at least 1.")
    rounds = 3 if args.quick else args.rounds
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, cores[-1:])
    todo = [(s, not args.quick, True) for s in SIZES] + [(s, False, False) for s in GROWTH if not args.quick]
    results = []
    try:
        for size, python, loops in tqdm(todo, disable=None, leave=False, unit="size"):
            results.append(measure(size, rounds, python, loops) | {"growth": not loops})
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
    print(f"{'N':>5}{'S':>5}{'A':>4}{'ours, ms':>11}{'x numpy loop':>24}{'x python':>10}{'LAPACK':>9}")
    for r in results:
        loop = (
            f"{r['x_numpy_loop']:.2f} [{r['x_numpy_low']:.2f}, {r['x_numpy_high']:.2f}]" if "x_numpy_loop" in r else "-"
        )
        python = f"{r['x_python']:.0f}" if "x_python" in r else "-"
        print(f"{r['N']:>5}{r['S']:>5}{r['A']:>4}{r['ms']:>11.2f}{loop:>24}{python:>10}{r['lapack_share']:>9.0%}")
    if not args.quick:
        growth = sorted((r for r in results if r["growth"] and r["S"] == 20), key=lambda r: r["N"])
        power = np.polyfit(np.log([r["N"] for r in growth]), np.log([r["ms"] for r in growth]), 1)[0]
        print(f"time grows like N^{power:.2f} from N = {growth[0]['N']} to {growth[-1]['N']} (S = 20)")
    if args.json:
        record = {"benchmark": "tabular", "rounds": rounds, "machine": platform.machine(), "cores_used": 1}
        args.json.write_text(json_text(record | {"results": results}, indent=1) + "\n")
    return 0
