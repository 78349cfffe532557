"""What a cluster does to jobs: time limits, preemption, kills. By stand-ins for SLURM's programs and real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pmeta_lib.experiments import results
from pmeta_lib.experiments.sweep_spec import load

sys.path.insert(0, str(Path(__file__).parent))
import slurm_standin
from sweep_tools import SPEC, check, environment, loop, start, status, wait_for

# One pack, so long that it is struck many times; only signals make it write checkpoints, unless a test says otherwise.
LONG = SPEC.replace('["joint", "pmeta"]', '"joint"').replace('"0-3"', '"0-1"').replace("steps = 300", "steps = 1_200")
SIGNALS_ONLY = ("--checkpoint-seconds", 1e6)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "long.toml"
    path.write_text(LONG)
    return path


@pytest.fixture(scope="module")
def undisturbed(spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    loop(spec, out)
    return results.read(out)


@pytest.fixture
def slurm(tmp_path):
    """The stand-ins' folder, on the PATH of `slurm.start(…)`: a sweep on SLURM into `slurm.out`."""
    pytest.importorskip("submitit")

    class Cluster:
        folder, out = tmp_path / "slurm", tmp_path / "out"
        found = slurm_standin.install(folder)

        def start(self, spec, *words, jobs=1, **extra):
            how = ("--out", self.out, "--engine", "slurm", "--jobs", jobs, "--slurm-minutes", 1)
            return start(spec, *how, *words, **self.found | extra)

        def befalls(self, what, name="100"):
            slurm_standin.ask(self.folder, name, what)

        def jobs(self):
            return slurm_standin.jobs(self.folder)

        def starts(self):
            return slurm_standin.starts(self.folder)

    cluster = Cluster()
    yield cluster
    slurm_standin.end_all(cluster.folder)


def until(sweep: subprocess.Popen, condition, what: str) -> None:
    """Wait for `condition()` while the sweep lives."""
    wait_for(lambda: condition() or sweep.poll() is not None, what)
    assert sweep.poll() is None, sweep.communicate()[0]


def newest(out: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(p.stem.removeprefix("step-")) for p in out.glob("*/checkpoints/step-*.json")), default=0)


def in_training(out: Path, times: int) -> bool:
    """Whether runs were begun `times` times."""
    return sum(p.read_text().count("-- ") for p in out.glob("*/log.txt")) >= times


def test_time_limits_without_number_are_no_failures(spec, undisturbed, slurm):
    sweep, steps = slurm.start(spec, *SIGNALS_ONLY), []
    for k in range(1, 6):  # submitit gives up at the fourth, --attempts is three
        until(sweep, lambda k=k: in_training(slurm.out, k), "a training")
        slurm.befalls("limit")
        until(sweep, lambda k=k: slurm.starts() > k, "a job queued again")
        steps.append(newest(slurm.out))
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 0 and "Traceback" not in said, said
    assert steps == sorted(set(steps)) and steps[0] > 0, steps  # each time further than before
    assert slurm.starts() == 6
    check(slurm.out, undisturbed)


def test_preemption_writes_a_checkpoint_and_is_no_failure(spec, undisturbed, slurm):
    sweep, before = slurm.start(spec, *SIGNALS_ONLY, "--attempts", 2), 0
    for k in range(1, 4):
        until(sweep, lambda k=k: in_training(slurm.out, k), "a training")
        slurm.befalls("preempt")
        until(sweep, lambda b=before: newest(slurm.out) > b, "a checkpoint before the kill")
        before = newest(slurm.out)
        assert slurm.starts() == k  # it trains on until it is killed
        slurm.befalls("evict")
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 0 and slurm.starts() == 4, said
    check(slurm.out, undisturbed)


def test_workers_killed_for_memory_are_no_failures_while_the_run_gets_further(spec, undisturbed, slurm):
    sweep, before = slurm.start(spec, "--checkpoint-seconds", 0.05, "--attempts", 2), 0
    for k in range(3):
        until(sweep, lambda b=before: newest(slurm.out) > b, "a newer checkpoint")
        slurm.befalls("kill", f"{100 + k}")  # SLURM does not queue such a job again: the sweep submits another
        until(sweep, lambda k=k: slurm.jobs().get(f"{100 + k}") == "OUT_OF_MEMORY", "the kill")
        before = newest(slurm.out)
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 0 and "SLURM job 100 ended in state OUT_OF_MEMORY" in said, said
    wait_for(lambda: slurm.jobs()["103"] == "COMPLETED", "the last job's end")
    check(slurm.out, undisturbed)


def test_kills_before_anything_was_gained_are_bounded_and_the_rest_is_done(spec, undisturbed, slurm, tmp_path):
    sweep = slurm.start(spec, *SIGNALS_ONLY, "--attempts", 2)
    for k in range(1, 3):
        until(sweep, lambda k=k: in_training(slurm.out, k), "a training")
        slurm.befalls("evict")
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 1 and "its worker died 2 times in a row before it got any further" in said, said
    assert status(slurm.out)["failed"] == 2 and slurm.starts() == 3
    again = start(spec, "--out", slurm.out, "--retry-failed")  # on this machine
    said = again.communicate(timeout=180)[0]
    assert again.returncode == 0, said
    check(slurm.out, undisturbed)


def test_a_job_that_dies_at_once_says_why_and_where_its_log_is(spec, slurm):
    sweep = slurm.start(spec, "--attempts", 1, jobs=2, STANDIN_BROKEN="libcuda.so.1: not here")
    said = sweep.communicate(timeout=240)[0]
    assert sweep.returncode == 1 and "Traceback" not in said, said
    log = slurm.out / ".slurm" / "100" / "100_0_log.err"
    assert f"SLURM job 100 ended in state FAILED: libcuda.so.1: not here (log: {log})" in said and log.is_file(), said
    assert "workers keep dying before they get anything done" in said


def test_what_slurm_is_asked_for(slurm, tmp_path):
    spec = tmp_path / "endless.toml"  # is still at it when it is told to stop, however busy the machine is
    spec.write_text(LONG.replace("steps = 1_200", "steps = 100_000"))
    sweep = slurm.start(spec, "--gpus-per-run", 0.25)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 2 and said.count("pmeta: error") == 1 and "ask for 1, or" in said, said
    assert not list(slurm.folder.glob("*.sbatch"))
    sweep = slurm.start(spec, "--gpus-per-run", 2, "--pack", 1, jobs=2)
    wait_for(lambda: list(slurm.folder.glob("*.sbatch")), "a job")
    asked = (slurm.folder / "100.sbatch").read_text().splitlines()
    assert {"#SBATCH --gpus-per-node=2", "#SBATCH --requeue", "#SBATCH --array=0-1%2"} <= set(asked)
    wait_for(lambda: in_training(slurm.out, 1), "a training")
    sweep.send_signal(signal.SIGINT)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 130 and "Traceback" not in said, said
    ended = wait_for(lambda: {s for s in slurm.jobs().values() if s != "RUNNING"}, "the jobs' end")
    assert ended <= {"CANCELLED by 0", "COMPLETED"} and slurm.starts() == 2  # and nobody queued them again


def test_a_refused_job_is_one_line(spec, slurm):
    (slurm.folder / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2\nexit 1\n")
    sweep = slurm.start(spec)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 2 and "Traceback" not in said, said
    assert "SLURM does not take the jobs: sbatch: error: invalid partition: x" in said


def test_a_sweep_on_this_machine_that_is_asked_to_go_has_its_workers_save(spec, undisturbed, tmp_path):
    for k, name in enumerate(("SIGUSR2", "SIGTERM", "SIGKILL"), start=1):
        before = newest(tmp_path)
        sweep = start(spec, "--out", tmp_path, "--jobs", 1, *SIGNALS_ONLY)
        until(sweep, lambda k=k: in_training(tmp_path, k), "a training")
        sweep.send_signal(getattr(signal, name))
        sweep.communicate(timeout=60)
        assert sweep.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130)
        wait_for(lambda b=before: newest(tmp_path) > b, "a newer checkpoint")
    wait_for(lambda: status(tmp_path)["running"] == 0, "the worker's end")
    sweep = start(spec, "--out", tmp_path)
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 0, said
    check(tmp_path, undisturbed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT"])
def test_train_that_is_asked_to_go_writes_a_checkpoint(spec, undisturbed, tmp_path, name):
    run = load(spec).runs[0]
    words = [sys.executable, "-m", "pmeta_lib.cli", "train", run.family, "--learner", run.learner, "--quiet", "--out",
             str(tmp_path)]  # fmt: skip
    for key, value in ((k, v) for k, v in run.to_json()["settings"].items() if v is not None):
        words += ["--set", f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}"]
    for _ in range(2):
        before = newest(tmp_path.parent)
        train = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 env=environment(PYTHONUNBUFFERED="1"))  # fmt: skip
        assert "steps per task" in train.stdout.readline()
        train.send_signal(getattr(signal, name))
        _, error = train.communicate(timeout=60)
        assert train.returncode == 128 + getattr(signal, name), error
        assert error == f"pmeta: {name}: a checkpoint is written, the same command goes on from it\n"
        assert newest(tmp_path.parent) > before
    train = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment(), check=True)
    assert f"going on from the checkpoint of step {newest(tmp_path.parent) or ''}" in train.stdout
    assert (tmp_path / "result.json").is_file()
