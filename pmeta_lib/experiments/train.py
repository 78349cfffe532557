"""examples:
pmeta train half-cheetah-dir                                  pMeta-SAC, 40,000 steps per task
pmeta train pendulum-flip --learner joint --seed 3
pmeta train half-cheetah-vel --option lam=0.1 --option inner_steps=20 --set steps=20000 --set hidden=64,64
pmeta train hopper-params --out out/hopper --tensorboard out/tb    the same command again resumes it"""

import argparse
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pmeta_lib import signals
from pmeta_lib.envs.families import FAMILIES, PRESETS
from pmeta_lib.experiments.learners import LEARNERS
from pmeta_lib.experiments.listing import SETTINGS, listing
from pmeta_lib.files import UserError, writable, write_report


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", help=f"one of {', '.join(FAMILIES)}")
    parser.add_argument("--learner", default="pmeta", help=f"one of {', '.join(LEARNERS)} (default: pmeta)")
    parser.add_argument("--preset", default="modern", help=f"protocol: {', '.join(PRESETS)} (default: modern)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, help="meta-train tasks (default: the preset's)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="a learner's option, below")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, below")
    parser.add_argument("--out", type=Path, help="folder of the results (default: out/runs/<identity>)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (one is the most efficient)")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="also write TensorBoard events there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the final returns there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.epilog += f"\n{listing('settings of --set', SETTINGS)}\n"
    parser.epilog += "".join(f"\n{listing(f'options of --option for --learner {n}', p)}" for n, p in LEARNERS.items())


def parse_pairs(pairs: list[str], flag: str) -> dict:
    """["lam=0.1", "hidden=64,64"] -> typed values: bool, int, float, list of those, or text."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} {pair!r}: write NAME=VALUE; --help lists the names")
        parts: list = text.split(",")
        for k, part in enumerate(parts):
            with suppress(json.JSONDecodeError):  # it is text
                parts[k] = json.loads(part.lower() if part.lower() in ("true", "false") else part)
        values[name.replace("-", "_")] = parts if "," in text or name == "hidden" else parts[0]
    return values


def use_machine(device: str, threads: int) -> None:
    """Let PyTorch have `threads`; `UserError` for a device that is not there, or more threads than cores."""
    import torch

    cuda = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    if device not in ["cpu", *cuda, *(["cuda"] if cuda else [])]:
        raise UserError(f"device {device!r} is not available here; use one of {', '.join(['cpu', *cuda])}")
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UserError(f"--threads is {threads}; it must lie in [1, {cores}], the cores of this machine")
    torch.set_num_threads(threads)


def main(args: argparse.Namespace) -> int:
    from pmeta_lib.experiments.run import finished, read_curve, run  # PyTorch, which `--help` need not wait for
    from pmeta_lib.experiments.spec import RunSpec

    use_machine(args.device, args.threads)
    given: dict = {"options": parse_pairs(args.option, "--option"), "settings": parse_pairs(args.set, "--set")}
    spec = RunSpec(args.family, args.learner, args.seed, args.preset, args.tasks, **given)
    folder = args.out or Path("out/runs") / spec.key
    sink = tensorboard(args.tensorboard / spec.key) if args.tensorboard else None
    try:
        with signals.heeded((*signals.LEAVE, signal.SIGINT)):  # before a word is said, for whoever waits for one
            where = "in" if finished(folder) else f"{spec.settings.steps:,} steps per task ->"
            print(f"{spec.label}: {where} {folder}")
            run(spec, folder, device=args.device, threads=args.threads, progress=not args.quiet, callback=sink)
    except signals.Left as left:
        print(f"pmeta: {left}: a checkpoint is written, the same command goes on from it", file=sys.stderr)
        return 128 + signal.Signals[str(left)]
    curve = read_curve(folder)
    last = curve[curve["step"] == curve["step"].max()].groupby("policy")["return"]
    for policy, returns in last:
        tasks = ", ".join(f"{x:.1f}" for x in returns)
        print(f"{policy:>9}: mean return {returns.mean():.1f} over the training tasks ({tasks})")
    write_report(args.json, {"run": spec.key, "folder": str(folder), "returns": last.mean().to_dict()})
    return 0


def tensorboard(folder: Path):
    """A callback that writes each evaluation to TensorBoard; a missing extra is one clear line."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed: pip install 'pmeta_lib[tensorboard]'") from error
    writable(folder, "--tensorboard")
    writer, written = SummaryWriter(str(folder)), {"rows": 0, "metrics": 0}  # a resumed run brings earlier rows along

    def write(run) -> None:
        for _, step, policy, task, value, *_ in run.rows[written["rows"] :]:
            writer.add_scalar(f"return/{policy}/task{task}", value, step)
        for _, step, slot, *values in run.metrics[written["metrics"] :]:
            for name, value in zip(run.METRICS[3:], values, strict=True):
                writer.add_scalar(f"{name}/slot{slot}", value, step)
        written.update(rows=len(run.rows), metrics=len(run.metrics))
        writer.flush()

    return write
