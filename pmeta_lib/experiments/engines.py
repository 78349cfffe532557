"""Where the workers of a sweep run. An engine starts workers, says when one has ended, and stops them; no more.

`start(job, n)` returns n handles; `ended(handle)` is None while the worker lives (or waits for a place), then
`(sound, reason)`: sound if it left of itself, a reason if it could not go on. `capacity` is how many fit at once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pmeta_lib.experiments.worker import CANNOT_GO_ON, work_through
from pmeta_lib.files import UserError

Ended = tuple[bool, str]


class Local:
    """Processes on this machine, one thread each by default; they die with the driver, whatever kills it."""

    def __init__(self, threads: int):
        self.threads, self.capacity, self.workers = threads, max(1, (os.cpu_count() or 1) // threads), []

    def start(self, job: dict, n: int) -> list:
        return [self._start(job) for _ in range(n)]

    def _start(self, job: dict) -> tuple[subprocess.Popen, Any]:
        said = tempfile.TemporaryFile()
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(job).encode())
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-m", "pmeta_lib.experiments.worker", str(file.fileno())], stdin=subprocess.PIPE,
                stdout=said, stderr=said, env=os.environ | dict.fromkeys(names, str(self.threads)),
                pass_fds=[file.fileno()], process_group=0,  # Ctrl-C is the driver's to answer
            )  # fmt: skip
        self.workers.append(process)
        return process, said

    def ended(self, handle: tuple[subprocess.Popen, Any]) -> Ended | None:
        process, said = handle
        if process.poll() is None:
            return None
        said.seek(0)
        last = (said.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        if process.returncode < 0:
            return False, f"process {process.pid} was killed ({signal.Signals(-process.returncode).name})"
        return process.returncode in (0, CANNOT_GO_ON), last

    def stop(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.kill()
            process.stdin.close()
            process.wait()


class Ray:
    """Ray tasks, spread over the nodes of a cluster that share the sweep's folder; without an address, on this one."""

    def __init__(self, address: str | None, cpus: float, gpus: float):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; silences its warning
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'pmeta_lib[ray]'") from error
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        alone = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, **quiet, **alone)
        except Exception as error:  # Ray raises a bare Exception when its own start takes over 30 s
            text = str(error).strip().splitlines()[0]
            start = "is this machine overloaded?" if alone else "start one: ray start --head"
            raise UserError(f"no Ray at {address!r} ({text}); {start}") from error
        have = ray.cluster_resources()
        room = [have.get(name, 0) / need for name, need in (("CPU", cpus), ("GPU", gpus)) if need]
        self.ray, self.tasks, self.capacity = ray, [], int(min(room)) if room else 1
        if not self.capacity:
            ray.shutdown()
            raise UserError(f"a run needs {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {have.get('CPU', 0):g} CPUs "
                            f"and {have.get('GPU', 0):g} GPUs")  # fmt: skip
        self.work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")(work_through)

    def start(self, job: dict, n: int) -> list:
        shared = self.ray.put(job)
        new = [self.work.remote(shared) for _ in range(n)]
        self.tasks += new
        return new

    def ended(self, task) -> Ended | None:
        if not self.ray.wait([task], timeout=0)[0]:
            return None
        try:
            return True, self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return False, f"Ray lost a worker or its node ({type(error).__name__})"

    def stop(self) -> None:
        for task in self.tasks:
            self.ray.cancel(task, force=True)
        self.ray.shutdown()


class _Job:
    """`work_through` as submitit wants it: asked to leave (preemption, time limit), it queues itself again."""

    def __call__(self, job: dict) -> str:
        return work_through(job)

    def checkpoint(self, job: dict):
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)


class Slurm:
    """A SLURM job array by submitit; `executor="local"` runs the same array as processes here, to try it out."""

    capacity = 8

    def __init__(self, folder: Path, executor: str, threads: int, gpus: float, minutes: int, partition: str | None):
        try:
            import submitit
        except ImportError as error:
            raise UserError("submitit is not installed: pip install 'pmeta_lib[slurm]'") from error
        try:
            self.executor = submitit.AutoExecutor(folder=folder / "%j", cluster=executor)
        except RuntimeError as error:
            raise UserError(f"SLURM is not to be found here ({error}); try --slurm-executor local") from error
        self.executor.update_parameters(
            name="pmeta-sweep", cpus_per_task=threads, gpus_per_node=int(gpus), timeout_min=minutes,
            **({"slurm_partition": partition} if partition else {}),
        )  # fmt: skip
        self.jobs, self.lost = [], (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError)

    def start(self, job: dict, n: int) -> list:
        new = self.executor.map_array(_Job(), [job] * n)
        self.jobs += new
        return new

    def ended(self, job) -> Ended | None:
        if not job.done():
            return None
        try:
            return True, job.result()
        except self.lost as error:
            return False, f"job {job.job_id} was lost ({type(error).__name__})"

    def stop(self) -> None:
        for job in self.jobs:
            if not job.done():
                job.cancel()
