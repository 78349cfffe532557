"""Sweeps with real processes, and what kills them. The measure is always the table of an undisturbed loop."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from pmeta_lib.experiments import results
from pmeta_lib.experiments.sweep_spec import load

sys.path.insert(0, str(Path(__file__).parent))
from sweep_tools import (
    PACKS,
    RUNS,
    SPEC,
    Driver,
    check,
    counted,
    environment,
    loop,
    same,
    start,
    status,
    training,
    wait_for,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "small.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def undisturbed(spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    loop(spec, out)
    table = results.read(out)
    assert table["run"].nunique() == RUNS
    return table


def test_a_killed_worker_loses_nothing(spec, undisturbed, tmp_path, capsys):
    driver = Driver(spec, tmp_path)
    driver.start()
    wait_for(lambda: training(tmp_path), "a training with a checkpoint")
    victim = next(p for p in driver.engine.workers if p.poll() is None)
    victim.kill()
    assert driver.finish() == {"planned": RUNS, "done": RUNS, "failed": 0}
    assert "was killed (SIGKILL)" in capsys.readouterr().out
    assert len(driver.engine.workers) > 2  # somebody took its place
    check(tmp_path, undisturbed)


def test_a_killed_driver_takes_its_workers_along_and_the_next_goes_on(spec, undisturbed, tmp_path):
    driver = start(spec, "--out", tmp_path, "--jobs", 1, "--checkpoint-seconds", 0.05)
    (folder, *_) = wait_for(lambda: training(tmp_path), "a training with a checkpoint")
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert workers
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert list(folder.glob("checkpoints/step-*.json"))
    assert folder.name not in {p.parent.name for p in tmp_path.glob("*/result.json")}  # half-written: not counted
    counts = status(tmp_path)
    assert counts["planned"] == RUNS and counts["done"] < RUNS and counts["running"] == 0
    again = Driver(spec, tmp_path)
    again.start()
    assert again.finish()["done"] == RUNS
    check(tmp_path, undisturbed)


def test_two_drivers_share_a_folder(spec, undisturbed, tmp_path):
    drivers = [Driver(spec, tmp_path, jobs=1), Driver(spec, tmp_path, jobs=1)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        assert driver.finish()["done"] == RUNS
    check(tmp_path, undisturbed)
    assert counted(tmp_path) == PACKS  # nothing was trained twice


def test_a_run_that_raises_is_listed_kept_apart_and_tried_again(spec, undisturbed, tmp_path, capsys):
    bad = load(spec).cells[0].runs[1]  # the second of a pack of two
    obstacle = tmp_path / bad.key / "curve.parquet" / "in the way"
    obstacle.mkdir(parents=True)  # its curve cannot be written
    driver = Driver(spec, tmp_path)
    driver.start()
    assert driver.finish() == {"planned": RUNS, "done": RUNS - 1, "failed": 1}
    said = capsys.readouterr().out
    assert bad.key in said and "cannot write the results" in said and "--retry-failed" in said
    assert "Traceback" in (tmp_path / bad.key / "log.txt").read_text()
    shutil.rmtree(obstacle.parent)
    begun = counted(tmp_path)
    again = start(spec, "--out", tmp_path)
    said = again.communicate()[0]
    assert again.returncode == 1 and bad.key in said, said  # missing a planned run; not tried unasked
    assert counted(tmp_path) == begun
    retry = Driver(spec, tmp_path, retry_failed=True)
    retry.start()
    assert retry.finish()["done"] == RUNS
    table = results.read(tmp_path)
    assert set(table["run"][table["packed"] == 1]) == {bad.key}  # it was trained on its own in the end, and says so
    rest = [t["run"] != bad.key for t in (table, undisturbed)]
    assert same(table[rest[0]].reset_index(drop=True), undisturbed[rest[1]].reset_index(drop=True))


FULL_DISK = """
import os, resource, subprocess, sys
from pathlib import Path
from pmeta_lib.experiments import results
from pmeta_lib.experiments.engines import Local
from pmeta_lib.experiments.sweep import sweep
from pmeta_lib.experiments.sweep_spec import load
spec, out, mode = sys.argv[1:]
def room(tmpfs, limit):
    if mode == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", tmpfs, "none", out], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
def go():
    return sweep(load(Path(spec)), Path(out), lambda: Local(1), jobs=2, checkpoint_seconds=0.05)
room("size=500k", 30_000)
counts = go()
assert counts["done"] < counts["planned"] and counts["failed"] == 0, counts
room("remount,size=100m", resource.RLIM_INFINITY)
counts = go()
assert counts["done"] == counts["planned"], counts
results.compact(results.read(out), Path(spec).parent / "full.parquet")
"""


def test_a_full_disk_stops_the_sweep_and_room_lets_it_go_on(spec, undisturbed, tmp_path):
    out, here = tmp_path / "out", tmp_path / "small.toml"
    out.mkdir()
    shutil.copy(spec, here)
    namespace = ["unshare", "--map-root-user", "--mount"]
    can = shutil.which("unshare") and subprocess.run([*namespace, "true"], check=False).returncode == 0
    mode = "tmpfs" if can else "limit"  # where nothing can be mounted, a limit on the size of files
    asked = [*(namespace if can else []), sys.executable, "-c", FULL_DISK, str(here), str(out), mode]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot write" in done.stdout and "run the same command again" in done.stdout
    table = pd.read_parquet(tmp_path / "full.parquet")
    assert table["run"].nunique() == RUNS
    assert (table["return"].to_numpy() == undisturbed["return"].to_numpy()).all()


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *jump;
__attribute__((constructor)) static void start(void) {
  int file = open(getenv("JUMP"), O_RDONLY);
  jump = file < 0 ? 0 : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t clock, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, t);
  if (jump && clock == CLOCK_REALTIME) t->tv_sec += *jump;
  return result;
}
time_t time(time_t *out) {
  struct timespec t; clock_gettime(CLOCK_REALTIME, &t); if (out) *out = t.tv_sec; return t.tv_sec;
}
int gettimeofday(struct timeval *v, void *zone) {
  struct timespec t; clock_gettime(CLOCK_REALTIME, &t); v->tv_sec = t.tv_sec; v->tv_usec = t.tv_nsec / 1000; return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD")
def test_a_clock_that_jumps_changes_nothing(spec, undisturbed, tmp_path):
    source, library, jump, out = (tmp_path / n for n in ("clock.c", "clock.so", "jump", "out"))
    source.write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def set_clock(days):
        with open(jump, "r+b" if jump.exists() else "wb") as file:
            file.write((days * 86400).to_bytes(8, "little", signed=True))

    set_clock(0)
    preloaded = {"LD_PRELOAD": str(library), "JUMP": str(jump)}
    driver = start(spec, "--out", out, "--jobs", 1, "--checkpoint-seconds", 0.05, **preloaded)
    wait_for(lambda: training(out), "a training with a checkpoint")
    set_clock(400)
    for path in out.rglob("*"):  # and files as a wrong clock leaves them
        os.utime(path, (1e9, 1e9) if path.name == "lock" else (5e9, 5e9)) if path.exists() else None
    other = Driver(spec, out, jobs=1)  # a second driver, whose clock is right
    other.start()
    wait_for(lambda: len(list(out.glob("*/result.json"))) >= 4, "half of the runs")
    set_clock(-4000)
    said = driver.communicate(timeout=180)[0]
    assert driver.returncode == 0, said
    assert other.finish()["done"] == RUNS
    logs = "".join(p.read_text() for p in out.glob("*/log.txt"))
    assert counted(out) == PACKS, logs  # nothing was taken for abandoned and trained twice
    check(out, undisturbed)


def test_slurm_by_submitits_local_executor_gives_the_same_table(spec, undisturbed, tmp_path):
    pytest.importorskip("submitit")
    done = start(spec, "--out", tmp_path, "--engine", "slurm", "--slurm-executor", "local", "--jobs", 2)
    said = done.communicate(timeout=180)[0]
    assert done.returncode == 0, said
    check(tmp_path, undisturbed)


RAY = """
import os, signal, socket, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from sweep_tools import command, start, training, wait_for
from ray.cluster_utils import Cluster

def node(cluster=None):
    sockets = [socket.socket() for _ in range(4)]
    for s in sockets:
        s.bind(("", 0))
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    ports = {name: s.getsockname()[1] for name, s in zip(names, sockets)}
    for s in sockets:
        s.close()
    how = {"num_cpus": 1, "object_store_memory": 80 * 2**20, **ports}
    if cluster:
        return cluster.add_node(wait=False, **how)
    return Cluster(initialize_head=True, head_node_args=how | {"include_dashboard": False})

spec, out = Path(sys.argv[1]), Path(sys.argv[2])
cluster = node()
second = node(cluster)
options = ("--engine", "ray", "--address", cluster.address, "--checkpoint-seconds", 0.05)
try:
    sweep = start(spec, "--out", out / "calm", *options)
    print(sweep.communicate(timeout=180)[0], sweep.returncode)
    sweep = start(spec, "--out", out / "struck", *options)
    wait_for(lambda: len(training(out / "struck")) == 2, "trainings on both nodes")
    second.kill_all_processes(check_alive=False)
    print(sweep.communicate(timeout=180)[0], sweep.returncode)
finally:
    cluster.shutdown()
"""


def test_two_ray_nodes_give_the_same_table_and_one_may_die(tmp_path):
    pytest.importorskip("ray")
    spec = tmp_path / "longer.toml"  # so long that the second node is at work before the first has done it all
    spec.write_text(SPEC.replace("steps = 300", "steps = 2_000"))
    loop(spec, tmp_path / "undisturbed")
    undisturbed = results.read(tmp_path / "undisturbed")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0"}
    asked = [sys.executable, "-c", RAY, str(spec), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(asked, capture_output=True, text=True, env=environment(**quiet), check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    check(tmp_path / "calm", undisturbed)
    processes = {line.split()[-1] for p in (tmp_path / "calm").glob("*/log.txt") for line in p.open() if "--" in line}
    assert len(processes) == 2  # one CPU a node: both nodes worked
    assert "Ray lost a worker or its node" in done.stdout
    check(tmp_path / "struck", undisturbed)
