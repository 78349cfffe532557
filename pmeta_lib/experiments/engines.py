"""Where the workers of a sweep run. `start(job, n)` of an engine returns n handles; `ended(handle)` is None while the
worker lives or waits for a machine, then how it ended and why. `capacity` is how many fit at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import suppress
from typing import Any

from pmeta_lib.experiments.worker import End, work_through
from pmeta_lib.files import UserError, json_text

Ended = tuple[End, str]


class Local:
    """Processes on this machine, one thread each by default; they leave with the driver, whatever ends it."""

    def __init__(self, threads: int):
        self.threads, self.capacity, self.workers = threads, max(1, (os.cpu_count() or 1) // threads), []

    def start(self, job: dict, n: int) -> list:
        return [self._start(job) for _ in range(n)]

    def _start(self, job: dict) -> tuple[subprocess.Popen, Any]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        output = tempfile.TemporaryFile()
        with tempfile.TemporaryFile() as file:
            file.write(json_text(job).encode())
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-m", "pmeta_lib.experiments.worker", str(file.fileno())], pass_fds=[file.fileno()],
                stdin=subprocess.PIPE, stdout=output, stderr=output, process_group=0,  # Ctrl-C is the driver's
                env=os.environ | dict.fromkeys(names, str(self.threads)),
            )  # fmt: skip
        self.workers.append(process)
        return process, output

    def ended(self, handle: tuple[subprocess.Popen, Any]) -> Ended | None:
        process, output = handle
        if (code := process.poll()) is None:
            return None
        if code < 0:
            return End.LOST, f"process {process.pid} was killed ({signal.Signals(-code).name})"
        output.seek(0)
        return End(code) if code in set(End) else End.LOST, _last_line(output.read().decode(errors="replace"))

    def stop(self) -> None:
        """Ask the workers to leave; those that have not saved within half a minute are killed."""
        for process in self.workers:
            process.terminate()
        patience = time.monotonic() + 30
        for process in self.workers:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, patience - time.monotonic()))
            process.kill()
            process.stdin.close()
            process.wait()


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


class Ray:
    """Ray tasks, spread over the nodes of a cluster that share the sweep's folder; without an address, on this one."""

    def __init__(self, args: Namespace):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; silences its warning
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install 'pmeta_lib[ray]'") from error
        address = args.address or os.environ.get("RAY_ADDRESS") or "local"
        here: dict = {"include_dashboard": False} if address == "local" else {}
        quiet: dict = {"log_to_driver": False, "logging_level": "ERROR", **here}
        try:
            ray.init(address=address, **quiet)
        except Exception as error:  # Ray raises a bare Exception when its own start takes over 30 s
            text = str(error).strip().splitlines()[0]
            start = "is this machine overloaded?" if here else "start one: ray start --head"
            raise UserError(f"no Ray at {address!r} ({text}); {start}") from error
        have, cpus, gpus = ray.cluster_resources(), args.threads, args.gpus_per_run
        room = [have.get(name, 0) / need for name, need in (("CPU", cpus), ("GPU", gpus)) if need]
        self.ray, self.tasks, self.capacity = ray, [], int(min(room))
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
            return self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:  # raised in the worker, outside of any run
            return End.LOST, f"a Ray worker could not start: {_last_line(str(error))}"
        except self.ray.exceptions.RayError as error:
            return End.LOST, f"Ray lost a worker or its node ({type(error).__name__})"

    def stop(self) -> None:
        for task in self.tasks:
            self.ray.cancel(task, force=True)
        self.ray.shutdown()


class _Job:
    """What a SLURM job calls: `work_through`, then queue the job again if its time is up."""

    def __call__(self, job: dict) -> Ended:
        # Before the time limit SLURM sends what submitit asked for: save, and let submitit queue the job again.
        # SIGTERM alone is a preemption, after which SLURM does that itself, or `scancel`: save, and train on.
        ask = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        queue_again: Any = signal.getsignal(ask)
        ended = work_through(job, leave=(ask,), save=(signal.SIGTERM,))
        if ended[0] is End.LEFT:
            queue_again(ask, None)  # ends the process
        return ended

    def checkpoint(self, job: dict):
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)


class Slurm:
    """A SLURM job array by submitit; `executor="local"` runs the same array as processes here, to try it out."""

    def __init__(self, args: Namespace):
        folder, gpus = args.out.resolve() / ".slurm" / "%j", args.gpus_per_run
        if gpus != int(gpus):
            raise UserError(f"--gpus-per-run is {gpus:g}; SLURM gives a job whole GPUs: ask for {int(gpus) + 1}, or "
                            "start --engine local with several --jobs inside of one job")  # fmt: skip
        try:
            import submitit
        except ImportError as error:
            raise UserError("submitit is not installed: pip install 'pmeta_lib[slurm]'") from error
        try:  # what bounds the time-outs is that a run gets further, not their number
            self.executor = submitit.AutoExecutor(folder, cluster=args.slurm_executor, slurm_max_num_timeout=10**9)
        except RuntimeError as error:
            raise UserError(f"SLURM is not to be found here ({error}); try --slurm-executor local") from error
        self.executor.update_parameters(
            name="pmeta-sweep", cpus_per_task=args.threads, gpus_per_node=int(gpus) or None,
            timeout_min=args.slurm_minutes, slurm_partition=args.slurm_partition or None,
            slurm_additional_parameters={"requeue": True},  # some sites have it off
        )  # fmt: skip
        self.capacity, self.jobs, self.errors = 8, [], submitit.core.utils

    def start(self, job: dict, n: int) -> list:
        try:
            new = self.executor.map_array(_Job(), [job] * n)
        except (self.errors.FailedJobError, self.errors.FailedSubmissionError) as error:
            raise UserError(f"SLURM does not take the jobs: {_last_line(str(error))}") from error
        self.jobs += new
        return new

    def ended(self, job) -> Ended | None:
        if not job.done():
            return None
        try:
            return job.result()
        except self.errors.UncompletedJobError:
            lines = [s for s in (job.stderr() or "").splitlines() if not s.startswith(("srun:", "slurmstepd:"))]
            why = lines[-1] if lines else "it wrote nothing; does its node see this folder?"
            return End.LOST, f"SLURM job {job.job_id} ended in state {job.state}: {why} (log: {job.paths.stderr})"

    def stop(self) -> None:
        for job in self.jobs:
            if not job.done():
                job.cancel(check=False)
