"""Sweeps on a file server that is out of order for a while, and where locks do not work. Faults by LD_PRELOAD."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pmeta_lib.experiments import results
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.files import write_json

sys.path.insert(0, str(Path(__file__).parent))
from sweep_tools import RUNS, SPEC, check, command, counted, environment, loop, start, training, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="needs cc and LD_PRELOAD")

# fsync and flock fail with the number that the file $FSYNC or $FLOCK holds, while it is there; with 0 they succeed
# without doing anything. $FSYNC.met or $FLOCK.met says that it happened.
FAULTS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
static int fault(const char *name, int *number) {
  const char *path = getenv(name);
  FILE *file = path ? fopen(path, "r") : 0;
  if (!file) return 0;
  int found = fscanf(file, "%d", number);
  fclose(file);
  char met[4096];
  snprintf(met, sizeof met, "%s.met", path);
  if (found == 1 && (file = fopen(met, "w"))) fclose(file);
  return found == 1;
}
int fsync(int d) {
  static int (*real)(int);
  int number;
  if (fault("FSYNC", &number)) { errno = number; return number ? -1 : 0; }
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  return real(d);
}
int flock(int d, int how) {
  static int (*real)(int, int);
  int number;
  if (fault("FLOCK", &number)) { errno = number; return number ? -1 : 0; }
  if (!real) real = dlsym(RTLD_NEXT, "flock");
  return real(d, how);
}
"""
IMPATIENT = "import pmeta_lib.files\npmeta_lib.files.PAUSES = (0.1, 0.2, 0.4)\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a sweep file, the faults' library and a module that shortens the waiting; the undisturbed table."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.toml").write_text(SPEC)
    (folder / "faults.c").write_text(FAULTS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "faults.so", folder / "faults.c", "-ldl"], check=True)
    (folder / "impatient").mkdir()
    (folder / "impatient" / "sitecustomize.py").write_text(IMPATIENT)
    loop(folder / "small.toml", folder / "undisturbed")
    return folder, results.read(folder / "undisturbed")


class Server:
    """The file server of one test: a sweep's folder `out`, and what calls it refuses."""

    def __init__(self, folder: Path, tmp_path: Path):
        self.spec, self.out, self.asked = folder / "small.toml", tmp_path / "out", tmp_path
        path = f"{folder / 'impatient'}:{environment()['PYTHONPATH']}"
        self.patient = {"LD_PRELOAD": str(folder / "faults.so")} | {n: str(tmp_path / n) for n in ("FSYNC", "FLOCK")}
        self.impatient = self.patient | {"PYTHONPATH": path}

    def refuse(self, call: str, number: int) -> None:
        (self.asked / ".new").write_text(str(number))
        os.replace(self.asked / ".new", self.asked / call)

    def mend(self) -> None:
        for call in ("FSYNC", "FLOCK"):
            (self.asked / call).unlink(missing_ok=True)

    def sweep(self, *words, **extra) -> subprocess.Popen:
        how = ("--out", self.out, "--jobs", 2, "--checkpoint-seconds", 0.05)
        return start(self.spec, *how, *words, **self.patient | extra)

    def says(self, *words) -> subprocess.CompletedProcess:
        return subprocess.run(command(*words), capture_output=True, text=True, env=environment(**self.impatient))


@pytest.fixture
def server(made, tmp_path):
    return Server(made[0], tmp_path)


@pytest.mark.parametrize("call, number", [("FSYNC", errno.ESTALE), ("FLOCK", errno.ENOLCK)])
def test_a_hiccup_of_two_seconds_is_waited_out(made, server, call, number):
    server.out.mkdir()
    server.refuse(call, number)  # while the sweep starts
    sweep = server.sweep()
    wait_for((server.asked / f"{call}.met").exists, "the first fault")
    time.sleep(2)
    server.mend()
    wait_for(lambda: training(server.out), "a training with a checkpoint")
    server.refuse(call, number)  # and while it saves
    time.sleep(2)
    server.mend()
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 0 and "failed" not in said.replace("0 failed", ""), said
    check(server.out, made[1])


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT])
def test_a_server_that_stays_away_stops_the_sweep_and_it_goes_on_from_its_checkpoints(made, server, number):
    sweep = server.sweep(**server.impatient)
    wait_for(lambda: training(server.out), "a training with a checkpoint")
    server.refuse("FSYNC", number)
    said = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 1 and "Traceback" not in said, said
    assert f"stopped: cannot write to {server.out}: {os.strerror(number)}. Mend that and run the same" in said
    assert not list(server.out.glob("*/failure.json")) and list(server.out.glob("*/checkpoints/step-*.json"))
    server.mend()
    said = server.sweep().communicate(timeout=180)[0]
    assert f"{RUNS} of {RUNS} runs done, 0 failed" in said
    assert "going on from the checkpoint of step" in "".join(p.read_text() for p in server.out.glob("*/log.txt"))
    check(server.out, made[1])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_sweep_where_there_are_no_locks_is_refused_in_a_line_and_status_reads_it(server, number):
    server.refuse("FLOCK", number)
    done = server.says(server.spec, "--out", server.out)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"cannot lock files in {server.out}: {os.strerror(number)}" in done.stderr
    for run in load(server.spec).runs:  # a sweep as another machine, where locks work, has begun it
        (server.out / run.key).mkdir()
        for name in ("lock", "claim.json"):
            (server.out / run.key / name).write_text("{}")
        write_json(server.out / run.key / "spec.json", run.to_json())
    (server.out / run.key / "result.json").write_text("{}")
    done = server.says("status", server.out)
    assert done.returncode == 1 and not done.stderr, done.stderr
    assert f"{RUNS} planned, 1 done, 0 failed, {RUNS - 1} running, 0 waiting" in done.stdout


def test_locks_that_lock_nobody_out_cost_work_and_no_result(made, server):
    server.refuse("FLOCK", 0)
    for run in load(server.spec).runs:
        (server.out / run.key).mkdir(parents=True)
    living = server.out / run.key / f".result.json.{os.uname().nodename.replace('.', '-')}.{os.getpid()}.1.tmp"
    living.write_text("of a process that lives")
    sweeps = [server.sweep(), server.sweep()]
    for sweep in sweeps:
        said = sweep.communicate(timeout=240)[0]
        assert sweep.returncode == 0 and "Traceback" not in said and " 0 failed" in said, said
    assert counted(server.out) > RUNS // 2  # packs were trained twice
    assert living.read_text() == "of a process that lives"
    living.unlink()
    assert not list(server.out.glob("*/failure.json"))
    for claim in server.out.glob("*/claim.json"):  # a worker that was overtaken leaves when its sweep ends
        claim.unlink()
    for folder in server.out.glob("*/checkpoints"):
        shutil.rmtree(folder)
    check(server.out, made[1])
