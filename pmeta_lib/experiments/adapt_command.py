"""examples:
pmeta adapt out/runs/1f0c…                                  its family's test tasks: 20 episodes, 10,000 steps
pmeta adapt out/sweeps/adaptation --steps 0,500,5000        every finished run of a sweep; the same again resumes
pmeta adapt out/runs/1f0c… --episodes 5 --every-way         plain fine-tuning beside the learner's own way
pmeta adapt out/runs/1f0c… --critics learned                an ablation: trained critics and temperature too
pmeta adapt out/runs/1f0c… --family pendulum-flip --out out/flip     a family of equal sizes"""

import argparse
from pathlib import Path

from pmeta_lib.experiments.listing import SETTINGS, listing
from pmeta_lib.experiments.train import parse_pairs, use_machine
from pmeta_lib.files import UserError, read_table, write_report


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="finished runs, or sweeps of them")
    parser.add_argument("--steps", default="0,1000,2000,5000,10000", help="evaluate after these steps a task")
    parser.add_argument("--episodes", type=int, default=20, metavar="K", help="record each of the first K episodes")
    parser.add_argument("--critics", default="fresh", help="fresh or learned (default: fresh)")
    parser.add_argument("--every-way", action="store_true", help="plain fine-tuning beside the learner's own way")
    parser.add_argument("--family", help="adapt to the test tasks of another family, of equal sizes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting, below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="tables go to DIR/<run>/ (default: the run's folder)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (one is the most efficient)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the mean returns there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.epilog += f"\n{listing('settings of --set; the defaults are those of the run', SETTINGS)}"


def main(args: argparse.Namespace) -> int:
    import pandas as pd

    from pmeta_lib.experiments import results  # PyTorch and all, which `--help` need not wait for
    from pmeta_lib.experiments.adapt import OF_THE_PLAN, adapt_packed, means
    from pmeta_lib.sac.adaptation import Plan

    use_machine(args.device, args.threads)
    steps = args.steps.split(",")
    if not all(s.strip().isdigit() for s in steps):
        raise UserError(f"--steps {args.steps!r}: give whole numbers of 0 or more, e.g. --steps 0,1000,10000")
    plan = Plan(tuple(int(s) for s in steps), args.episodes, args.critics, args.every_way)
    changes = parse_pairs(args.set, "--set")
    for name in changes.keys() & OF_THE_PLAN:
        raise UserError(f"--set {name}: the trained networks or --steps decide it here; leave it out")
    paths, shared = [], args.out or args.folders[0]
    for _, cell in results.runs(args.folders).groupby("cell", sort=False):
        paths += adapt_packed(
            list(map(Path, cell["folder"])), plan, family=args.family, out=args.out, changes=changes, shared=shared,
            device=args.device, threads=args.threads, progress=not args.quiet,
        )  # fmt: skip
    table = pd.concat([read_table(path) for path in paths], ignore_index=True)
    report, first = means(table, "deployed", "step"), means(table, "acting", "episode")
    if len(first):
        first[f"1 to {first.columns.max()}"] = first.mean(axis=1, skipna=False)  # the few-shot endpoint
    for family, rows in table.groupby("family"):
        split = "held out" if rows["held_out"].all() else "NOT held out: they are the training tasks"
        print(f"\n{family}: mean return on {rows['task'].nunique()} test tasks ({split})")
        for words, all_of in (("of the first episodes as they were lived", first),
                              ("after so many steps", report)):  # fmt: skip
            if family in all_of.index.get_level_values(0):
                shown = all_of.loc[family].dropna(axis=1, how="all")
                print(f"{words}:\n" + shown.to_string(float_format="{:.1f}".format, na_rep=""))
    alone = table.groupby("learner")["way"].agg(lambda ways: set(ways) <= {"scratch", "random"})
    for name in alone.index[alone]:
        print(f"{name} brings nothing along to a new task: scratch is its way too")
    print("\n" + "\n".join(f"-> {path}" for path in paths))
    rows = [dict(zip(report.index.names, index)) | {"returns": {str(k): v for k, v in row.dropna().items()},
            "episodes": {str(k): v for k, v in first.T.get(index, pd.Series()).dropna().items()}}
            for index, row in report.iterrows()]  # fmt: skip
    write_report(args.json, {"tables": [str(p) for p in paths], "rows": rows})
    return 0
