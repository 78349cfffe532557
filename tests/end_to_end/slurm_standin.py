"""Stand-ins for sbatch, srun, scontrol, sacct and scancel: jobs are real processes here, signalled as SLURM does it.

A job is a few files in the folder $STANDIN: `NAME.state` (what sacct says), `NAME.starts` (a line a start), `NAME.pid`
(of its step), `NAME.ask`. Tests write into the last what befalls the job, for no clock decides here: `limit` sends what
`#SBATCH --signal` asks for, as SLURM does before the time limit; `preempt` sends SIGCONT and SIGTERM, `evict` the kill
that follows, after which SLURM queues the job again; `kill` is the kernel's, for memory.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "scontrol", "sacct", "scancel")
ENDS = {"evict": "PREEMPTED", "requeue": "REQUEUED", "cancel": "CANCELLED by 0", "kill": "OUT_OF_MEMORY"}
HOME = Path(os.environ.get("STANDIN", "."))


def install(folder: Path) -> dict[str, str]:
    """Put the programs into `folder`; the environment that finds them."""
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)
    return {"STANDIN": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


def ask(folder: Path, name: str, what: str) -> None:
    (folder / f".{name}").write_text(what)
    os.replace(folder / f".{name}", folder / f"{name}.ask")


def jobs(folder: Path) -> dict[str, str]:
    """Name -> state."""
    return {p.stem: p.read_text() for p in sorted(folder.glob("*.state"))}


def starts(folder: Path) -> int:
    """How often jobs were started, all together."""
    return sum(len(p.read_text().splitlines()) for p in folder.glob("*.starts"))


def end_all(folder: Path) -> None:
    for pid in folder.glob("*.pid"):
        ask(folder, pid.stem, "cancel")
    for _ in range(200):
        if all(state not in ("RUNNING", "PENDING") for state in jobs(folder).values()):
            return
        time.sleep(0.05)


def sbatch(script: str) -> None:
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", Path(script).read_text(), re.M))
    number = 100 + len(list(HOME.glob("*.sbatch")))
    (HOME / f"{number}.sbatch").write_bytes(Path(script).read_bytes())
    last = re.match(r"0-(\d+)", flags.get("array", ""))
    for name in [f"{number}_{k}" for k in range(int(last[1]) + 1)] if last else [str(number)]:
        (HOME / f"{name}.state").write_text("PENDING")
        words = [sys.executable, __file__, "supervise", name, script, flags["signal"].partition("@")[0]]
        subprocess.Popen(
            words, start_new_session=True, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        )
    print(f"Submitted batch job {number}")


def supervise(name: str, script: str, warning: str) -> None:
    array, _, task = name.partition("_")
    own = {"SLURM_JOB_ID": array, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "1"}
    own |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
    state = "PENDING"
    while state in ("PENDING", "PREEMPTED", "REQUEUED"):
        time.sleep(0.2)
        (HOME / f"{name}.state").write_text("RUNNING")
        with open(HOME / f"{name}.starts", "a") as file:
            file.write("started\n")
        batch = subprocess.Popen(["bash", script], env=os.environ | own | {"STANDIN_NAME": name})
        state = watch(name, batch, getattr(signal, f"SIG{warning}"))
        (HOME / f"{name}.state").write_text(state)


def watch(name: str, batch: subprocess.Popen, warning: int) -> str:
    """The state in which the job ends."""
    asked = HOME / f"{name}.ask"
    while True:
        code = batch.poll()  # before looking: a job that asks to be queued again ends by itself, too
        word = asked.read_text() if asked.exists() else ""
        asked.unlink(missing_ok=True)
        if word == "limit":
            send(name, warning)
        elif word == "preempt":
            send(name, signal.SIGCONT, signal.SIGTERM)
        elif word in ("evict", "requeue", "cancel", "kill"):
            while batch.poll() is None:  # its step may not have been started yet
                send(name, *([signal.SIGTERM] if word == "cancel" else []), signal.SIGKILL)
                time.sleep(0.05)
            return ENDS[word]
        elif code is not None:
            return "COMPLETED" if code == 0 else "FAILED"
        time.sleep(0.05)


def send(name: str, *numbers: int) -> None:
    for number in numbers:
        try:
            os.kill(int((HOME / f"{name}.pid").read_text()), number)
        except (OSError, ValueError):
            pass


def srun(*words: str) -> None:
    if reason := os.environ.get("STANDIN_BROKEN"):
        words = (*words[: words.index("--error") + 2], "sh", "-c", f"echo '{reason}' >&2; exit 1")
    name = os.environ["STANDIN_NAME"]
    array, _, task = name.partition("_")
    (HOME / f"{name}.pid").write_text(str(os.getpid()))
    command = list(words)
    for flag, descriptor in (("--output", 1), ("--error", 2)):
        at = command.index(flag)
        path = command[at + 1].replace("%A", array).replace("%a", task).replace("%j", name).replace("%t", "0")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
        del command[at : at + 2]
    command.remove("--unbuffered")
    os.execvp(command[0], command)


def main(program: str, *words: str) -> None:
    if program == "scontrol":
        ask(HOME, words[1], words[0])  # requeue NAME
    elif program == "scancel":
        ask(HOME, words[0], "cancel")
    elif program == "sacct":
        print("JobID|State|NodeList", *(f"{name}|{state}|here" for name, state in jobs(HOME).items()), sep="\n")
    else:
        {"sbatch": sbatch, "supervise": supervise, "srun": srun}[program](*words)


if __name__ == "__main__":
    main(*sys.argv[1:])
