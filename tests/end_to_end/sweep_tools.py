"""What the tests of sweeps share: a small sweep file, the real command, a cluster of two Ray nodes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd

from pmeta_lib.experiments import results
from pmeta_lib.experiments.engines import Local
from pmeta_lib.experiments.run import run_packed
from pmeta_lib.experiments.sweep import sweep
from pmeta_lib.experiments.sweep_spec import load

SPEC = """
families = ["pendulum-flip"]
learners = ["joint", "pmeta"]
seeds = "0-3"
pack = 2
[settings]
steps = 300
warm_up = 50
hidden = [16, 16]
batch_size = 16
evaluations = 3
evaluation_episodes = 1
"""
RUNS, PACKS = 8, 4


def environment(**extra) -> dict:
    """Of a command: one thread, and Ray quiet, offline and without the slow imports that it has no use for."""
    path = os.pathsep.join([str(Path(__file__).parent / "light"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | extra


def command(*args) -> list[str]:
    return [sys.executable, "-m", "pmeta_lib.cli", "sweep", *map(str, args)]


def start(*args, **extra) -> subprocess.Popen:
    return subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**extra),
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that it starts in turn."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, what: str, seconds: float = 120.0):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


def training(out: Path):
    """The packs that are being trained and have a checkpoint to go on from."""
    return [p.parent for p in out.glob("*/claim.json") if list(p.parent.glob("checkpoints/step-*.json"))]


def loop(spec: Path, out: Path) -> None:
    """An undisturbed loop over the packs of a sweep, in this process, without a sweep's machinery."""
    for cell in load(spec).cells:
        for i in range(0, len(cell.runs), cell.pack):
            pack = list(cell.runs[i : i + cell.pack])
            run_packed(pack, [out / s.key for s in pack])


class Driver(threading.Thread):
    """A driver on this machine, in a thread of this process; its workers are real processes."""

    def __init__(self, spec: Path, out: Path, jobs: int = 2, **how):
        super().__init__()
        self.engine = Local(1)
        how = {"checkpoint_seconds": 0.05} | how
        self.work = lambda: sweep(load(spec), out, lambda: self.engine, jobs=jobs, **how)

    def run(self):
        self.counts = self.work()

    def finish(self) -> dict:
        self.join(180)
        assert not self.is_alive()
        return self.counts


def same(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    """Whether two tables hold the same results: all columns but the `VOLATILE` ones, exactly."""
    drop = [c for c in results.VOLATILE if c in left]
    return left.drop(columns=drop).equals(right.drop(columns=drop))


def check(out: Path, expected) -> None:
    """Every planned run is there once, nothing half-written is left, and the table is the undisturbed one."""
    table = results.read(out)
    assert table["run"].nunique() == expected["run"].nunique()
    assert same(table, expected)
    assert table["checkpoint_sha256"].equals(expected["checkpoint_sha256"])  # the parameters, bit for bit
    left = [p for p in out.rglob("*") if p.suffix == ".tmp" or p.name in ("claim.json", "failure.json", "checkpoints")]
    assert left == []


def counted(out: Path) -> int:
    """How often a training was begun, over all logs."""
    return sum(p.read_text().count("\n-- ") + p.read_text().startswith("-- ") for p in out.glob("*/log.txt"))


def status(out: Path) -> dict:
    target = out / "status.json"
    subprocess.run(command("status", out, "--json", target), env=environment(), capture_output=True, check=False)
    return json.loads(target.read_text())
