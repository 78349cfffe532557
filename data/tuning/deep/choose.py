"""Choose each learner's settings from the tuning runs: `python data/tuning/deep/choose.py [FOLDER ...] [--scale desk]`.

With folders of `pmeta sweep data/sweeps/tuning.toml` it first stores their runs in the scale's table, beside those that
are there and still planned; without, it chooses from the stored table. A run's result is the deployed policies' mean
return over the last quarter of its evaluations, on all training tasks. Per family 0 is the best of three placebos and 1
the best point of any learner; a learner's point is the one with the highest mean over all families, seeds averaged.

A choice is refused where a value lies at the edge of what was tried: for each of the point's values there has to be one
below and one above it that was tried with the others as they are. (0, or one inner step, is the end of its axis, not of
what was tried.) Then nothing is written but the sweep: `--extend` adds the points that lack to data/sweeps/tuning.toml.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from pmeta_course.reproduction.statistics import last_quarter

from pmeta_lib.experiments import results
from pmeta_lib.experiments.sweep_spec import load
from pmeta_lib.files import json_text
from pmeta_lib.sac.learners import learner

HERE = Path(__file__).resolve().parent
SWEEP, PLACEBOS = HERE.parents[1] / "sweeps" / "tuning.toml", HERE.parents[1] / "results" / "placebos.parquet"
OPTION = {"pmeta": "lam", "maml": "inner_step_size", "reptile": "inner_steps", "distral": "kl_weight",
          "pearl": "kl_weight"}  # fmt: skip
AXES = {  # what may be tried next
    "learning_rate": (3e-5, 1e-4, 1.7e-4, 3e-4, 5.5e-4, 1e-3, 1.7e-3, 3e-3, 5.5e-3, 1e-2, 1.7e-2, 3e-2, 1e-1),
    "polyak": (5e-4, 1e-3, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0),
    "lam": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), "inner_step_size": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "inner_steps": (1, 2, 10, 50, 250, 1250, 6250), "kl_weight": (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
}  # fmt: skip
ENDS = {"polyak": 1.0, "lam": 0.0, "inner_steps": 1, "kl_weight": 0.0}


def scores(table: pd.DataFrame, placebos: pd.DataFrame) -> pd.DataFrame:
    """One row a learner and point (learning rate, polyak, option): its normalised score by family, and their mean.
    Points that lack a family or a seed that others have are left out."""
    late = table.groupby("run")["step"].transform(last_quarter).astype(bool)
    late = table[(table["policy"] == "deployed") & late]
    heads = late.drop_duplicates("run")
    points = {
        run: _point(*rest) for run, *rest in heads[["run", "learner", "settings", "options"]].itertuples(index=False)
    }
    found = late.assign(point=late["run"].map(points)).groupby(["family", "learner", "point", "seed"])["return"].mean()
    seeds = found.groupby(level=["family", "learner", "point"]).agg(["mean", "size"])
    values = seeds["mean"].where(seeds["size"] == seeds["size"].max())
    columns = {}
    for family, part in values.groupby(level="family"):
        tasks = table.loc[table["family"] == family, "task"].unique()
        mine = (placebos["family"] == family) & (placebos["split"] == "train") & placebos["task"].isin(tasks)
        low = placebos[mine].groupby("placebo")["return"].mean().max()
        columns[family] = ((part - low) / (part.max() - low)).droplevel("family")
    wide = pd.DataFrame(columns)
    return wide.assign(score=wide.mean(axis=1, skipna=False)).dropna().sort_index()


def _point(name: str, settings: str, options: str) -> tuple:
    given, own = json.loads(settings), json.loads(options)
    option = OPTION.get(name)
    return given["learning_rate"], given["polyak"], own.get(option, getattr(learner(name), option)) if option else None


def beyond(name: str, best: tuple, tried: set[tuple]) -> list[tuple]:
    """The points next to `best` that would have to be tried before it can be chosen, one for every edge it lies at."""
    lacking = []
    for k, axis in enumerate(("learning_rate", "polyak", OPTION.get(name))):
        line = {p[k] for p in tried if all(p[i] == best[i] for i in range(3) if i != k)}
        for is_on in (lambda x: x < best[k], lambda x: x > best[k]):  # noqa: B023
            if axis is None or any(map(is_on, line)) or best[k] == ENDS.get(axis):
                continue
            further = sorted(filter(is_on, AXES[axis]), key=lambda x: abs(x - best[k]))
            if not further:
                raise SystemExit(
                    f"{name}: {axis} = {best[k]:g} is at the edge of AXES too; extend it here, in choose.py"
                )
            lacking.append((*best[:k], further[0], *best[k + 1 :]))
    return lacking


def choose(wide: pd.DataFrame) -> tuple[dict[str, tuple], dict[str, list[tuple]]]:
    """The best point of each learner, and what has to be tried before it can be trusted (learners without: none)."""
    best = {name: part["score"].idxmax()[1] for name, part in wide.groupby(level="learner")}
    lacking = {name: beyond(name, point, set(wide.loc[name].index)) for name, point in best.items()}
    return best, {name: points for name, points in lacking.items() if points}


def as_settings(name: str, point: tuple) -> dict:
    return {"settings": {"learning_rate": point[0], "polyak": point[1]},
            "options": {OPTION[name]: point[2]} if name in OPTION else {}}  # fmt: skip


def block(scale: str, name: str, point: tuple) -> str:
    """The sweep's block that tries `point`."""
    own = f"options.{name}.{OPTION[name]} = {point[2]!r}\n" if name in OPTION else ""
    return (f'\n[[block]]  # beyond an edge\nscales = ["{scale}"]\nlearners = ["{name}"]\n'
            f"settings.learning_rate = {point[0]!r}\nsettings.polyak = {point[1]!r}\n{own}")  # fmt: skip


def main(args: argparse.Namespace) -> None:
    suffix = "" if args.scale == "desk" else f"_{args.scale}"
    stored = HERE / f"tuning{suffix}.parquet"
    if args.folders:
        new, planned = results.read(args.folders), {run.key for run in load(SWEEP, args.scale).runs}
        old = pd.read_parquet(stored) if stored.exists() else new.head(0)
        kept = old[old["run"].isin(planned - set(new["run"]))]
        results.compact(pd.concat([new, kept], ignore_index=True) if len(kept) else new, stored)
    table = pd.read_parquet(stored)
    wide = scores(table, pd.read_parquet(PLACEBOS))
    best, lacking = choose(wide)
    top = wide.groupby(level="learner")["score"].agg(["max", "size"]).rename(columns={"max": "score", "size": "points"})
    print(top.sort_values("score", ascending=False).round(3).to_string())
    if lacking:
        edges = [f"{n}: chosen {best[n]}, but {p} was not tried" for n, points in lacking.items() for p in points]
        if args.extend:
            blocks = "".join(block(args.scale, n, p) for n, points in lacking.items() for p in points)
            SWEEP.write_text(SWEEP.read_text() + blocks)
            edges.append(f"added to {SWEEP.name}: run the sweep again, then this")
        raise SystemExit("\n".join(["not chosen, values lie at an edge (learning rate, polyak, option):", *edges]))
    grid = [{"learner": n, **as_settings(n, p), **row.round(4).to_dict()} for (n, p), row in wide.iterrows()]
    facts = {
        "command": f"pmeta sweep data/sweeps/tuning.toml --scale {args.scale} --out out/tuning && "
        f"python data/tuning/deep/choose.py out/tuning --scale {args.scale}",
        "seeds": sorted(int(s) for s in table["seed"].unique()),
        "commit": sorted(table["commit"].unique()),
        "chosen": {name: as_settings(name, point) for name, point in best.items()},
        "grid": grid,
    }
    (HERE / f"chosen{suffix}.json").write_text(json_text(facts, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--scale", default="desk")
    parser.add_argument("--extend", action="store_true", help="add the points that lack to the sweep")
    main(parser.parse_args())
