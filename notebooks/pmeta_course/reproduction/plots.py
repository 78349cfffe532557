"""The figures of the report, from the stored results. (`figures` holds the look alone and loads faster.)"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pmeta_course.reproduction import claims, resampling, statistics
from pmeta_course.reproduction.scores import Scores, load
from pmeta_lib.figures import COLOURS, DASHED, LEARNERS, use_style
from pmeta_lib.files import read_table

RESAMPLES = 2000
STYLES = {"uniform random": ":", "zero action": "-.", "untrained": (0, (1, 3))}  # of the placebos' grey lines
BEST = {"independent": "best: learning alone", "joint": "best: one policy for all", "pmeta": "best: pMeta"}  # in a map
NOTHING: dict = {"fill": False, "hatch": "//", "edgecolor": "0.35", "lw": 0}
LEGEND = {"fontsize": "x-small", "frameon": True, "framealpha": 0.85, "edgecolor": "none"}


def learning_curves(found: list[Scores]) -> Figure:
    """A panel a family: mean return over steps, every learner with its 95 % interval over seeds; placebos."""
    rows, columns = -(-len(found) // 2), min(2, len(found))
    figure, axes = plt.subplots(rows, columns, figsize=(9.5 if columns > 1 else 7, 3.6 * rows), squeeze=False)
    for axis, scores in zip(axes.flat, found):
        _curves(axis, scores)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    shown = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3 * columns), **LEGEND)
    return figure


def _curves(axis: Axes, scores: Scores) -> None:
    for learner in [n for n in (*LEARNERS, "scratch") if n in scores.curves]:
        curve = scores.curves[learner]
        bands = [statistics.mean_interval(x) if len(curve) > 1 else (x[0],) * 3 for x in curve.to_numpy().T]
        _line(axis, curve.columns, tuple(zip(*bands)), learner)
    for name, returns in scores.placebos.items():
        axis.axhline(returns.mean(), color="0.2", ls=STYLES[name], lw=1.6, label=name)
    if "independent" in scores.curves and scores.split == "train":
        axis.axhline(scores.final("independent").mean(), color="0.35", ls="--", label="independent, at the end")
    steps = "environment steps per task" if scores.split == "train" else "steps of adaptation per task"
    axis.set(xlabel=steps, ylabel="return per episode\n(mean, 95 % interval)")
    counts = {len(curve) for curve in scores.curves.values()}
    seeds = "-".join(map(str, sorted({min(counts), max(counts)})))
    axis.set_title(f"{scores.name}, {scores.split} tasks, {scores.scale}, {seeds} seeds", fontsize="small")
    ends = [curve.columns.max() for curve in scores.curves.values()]
    if max(ends) >= 5 * min(ends):  # on-policy learners take many more
        # Linear up to a power of ten, else a tick stands between it and 0; and matplotlib rounds log10(1000) down.
        axis.set_xscale("symlog", linthresh=1.001 * 10 ** int(np.log10(min(ends) / 3)))
        axis.set_xlim(0, max(ends))
    else:
        axis.locator_params(axis="x", nbins=4)


def one_page(cells: dict[str, pd.DataFrame], curves: list[Scores]) -> Figure:
    """The page to remember: who is best over heterogeneity and data per task, and curves of the families `curves`.

    `cells`: title -> a row a run (`h`, `data`, `learner`, `value`, `zero`: the best placebo), a panel each. A cell has
    the colour of the learner with the best mean, full where it is ahead of both others beyond the intervals, hatched
    where even the best is no better than the placebo, and pMeta's mean minus the better one's of the two others; a star
    where pMeta is ahead of both.
    """
    figure, panels = plt.subplots(2, -(-(len(cells) + len(curves)) // 2), figsize=(13, 8.2), squeeze=False)
    axes = panels.ravel()[: len(cells) + len(curves)]
    for axis in panels.ravel()[len(axes) :]:
        axis.set_visible(False)
    for axis, (title, table) in zip(axes, cells.items()):
        digits = 2 if np.ptp(table["value"]) < 50 else 1
        levels, amounts = sorted(table["h"].unique()), sorted(table["data"].unique())
        for (h, data), cell in table.groupby(["h", "data"]):
            runs = {n: cell.loc[cell["learner"] == n, "value"].to_numpy() for n in BEST}
            mean = {n: x.mean() for n, x in runs.items()}
            best = max(mean, key=mean.__getitem__)
            ahead = all(statistics.difference_interval(runs[best], x)[1] > 0 for n, x in runs.items() if n != best)
            corner = amounts.index(data) - 0.5, levels.index(h) - 0.5
            axis.add_patch(Rectangle(corner, 1, 1, color=COLOURS[best], alpha=0.75 if ahead else 0.25, lw=0))
            if mean[best] <= cell["zero"].iloc[0]:
                axis.add_patch(Rectangle(corner, 1, 1, **NOTHING))
            gain, star = mean["pmeta"] - max(mean["independent"], mean["joint"]), "*" * (ahead and best == "pmeta")
            middle = corner[0] + 0.5, corner[1] + 0.5
            axis.text(*middle, f"{gain:+.{digits}f}{star}", ha="center", va="center", fontsize="small")
        axis.set(xticks=range(len(amounts)), xticklabels=[f"{a:,}" for a in amounts], xlim=(-0.5, len(amounts) - 0.5),
                 yticks=range(len(levels)), yticklabels=[f"{h:g}" for h in levels], ylim=(-0.5, len(levels) - 0.5),
                 xlabel="data per task", ylabel="heterogeneity of the tasks, h", title=title)  # fmt: skip
        axis.grid(False)
    for axis, of in zip(axes[len(cells) :], curves):
        few = {n: curve for n, curve in of.curves.items() if n in (*BEST, "joint-onehot", "pearl")}
        _curves(axis, replace(of, curves=few))  # all of them: `learning_curves`
    patches = [Rectangle((0, 0), 1, 1, color=COLOURS[n], alpha=0.75, label=words) for n, words in BEST.items()]
    patches.append(Rectangle((0, 0), 1, 1, label="best, but no better than a placebo", **NOTHING))
    lines, _ = axes[-1].get_legend_handles_labels()
    figure.legend(handles=patches + lines, loc="outside lower center", ncols=5, **LEGEND)
    return figure


def aggregate_scores(axis: Axes, families: list[Scores]) -> None:
    """Interquartile mean of every learner's and placebo's normalised score with its 95 % interval."""
    names = [*_common(families), *STYLES]
    _bars(axis, {n: _scaled(families, [s.final(n) for s in families], resampling.iqm) for n in names})
    axis.axvline(0, color="0.2", ls=":")
    axis.axvline(1, color="0.35", ls="--")
    axis.set_xlabel(
        "normalised score (interquartile mean, 95 %)\n0: best placebo, 1: independent SAC", fontsize="small"
    )
    axis.locator_params(axis="x", nbins=5)


def improvement(axis: Axes, families: list[Scores]) -> None:
    """Probability that a run of pMeta beats one of another learner, with its 95 % interval; below each in grey the same
    of the control, independent SAC."""
    rivals = [n for n in _common(families) if n != "pmeta"]
    _bars(axis, {n: claims.improvement(families, "pmeta", n) for n in rivals})
    for k, rival in enumerate(rivals):
        value, low, high = claims.improvement(families, "independent", rival)
        axis.errorbar(value, k + 0.3, xerr=[[value - low], [high - value]], fmt="s", ms=4, lw=1.5, color="0.45",
                      label=None if k else "independent instead of pMeta")  # fmt: skip
    axis.axvline(0.5, color="0.35", ls=":")
    axis.set(xlabel="probability that pMeta beats it\n(95 % interval)", xlim=(-0.03, 1.03))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), **LEGEND)


def performance_profile(axis: Axes, families: list[Scores]) -> None:
    """Share of runs above each normalised score, with 95 % bands."""
    grid = np.linspace(-0.2, 1.4, 81)
    for learner in _common(families):
        runs = [s.final(learner) for s in families]
        _line(axis, grid, _scaled(families, runs, lambda x: resampling.performance_profile(x, grid)), learner)
    axis.set(xlabel="normalised score s", ylabel="share of runs with score > s\n(95 % interval)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, **LEGEND)


def sample_efficiency(axis: Axes, families: list[Scores]) -> None:
    """Interquartile mean of the normalised score over the share of the budget spent, whole curves resampled."""
    share = np.linspace(0, 1, 41)
    for learner in _common(families):
        curves = [s.curves[learner] for s in families]
        strata = [np.array([np.interp(share * c.columns[-1], c.columns, run) for run in c.to_numpy()]) for c in curves]
        _line(axis, 100 * share, _scaled(families, strata, resampling.iqm), learner)
    axis.set(xlabel="budget spent (%)", ylabel="normalised score\n(interquartile mean, 95 %)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, **LEGEND)


def by_suite(suites: dict[str, list[Scores]], draw: Callable[[Axes, list[Scores]], None]) -> Figure:
    """One of the aggregate figures, a panel a suite; the title says what the panel rests on."""
    figure, axes = plt.subplots(1, len(suites), figsize=(4.8 * len(suites), 4.0), squeeze=False)
    for axis, (suite, families) in zip(axes.flat, suites.items()):
        draw(axis, families)
        axis.set_title(f"{suite}: " + (families[0].name if len(families) == 1 else f"{len(families)} families"))
    return figure


def draw_all(results: Path, folder: Path) -> list[Path]:
    """Draw every figure of README and docs from the stored results into `folder`: the same bytes each time."""
    use_style()
    found = load(results)
    train, test = ([s for s in found if s.split == split] for split in ("train", "test"))
    curves = {"learning_curves": train, "adaptation": test}
    drawn = {name: learning_curves(shown) for name, shown in curves.items() if shown}
    cheetahs = {s.name: s for s in reversed(train) if s.name in ("half-cheetah-dir", "half-cheetah-vel")}  # field first
    if cheetahs:
        drawn["main_result"] = one_page(_maps(results), [cheetahs[name] for name in sorted(cheetahs)])
    suites = {f"{suite}, {scale} scale": claims.select(found, scale, suite, "train", ("pmeta", "independent"))[0]
              for scale in ("field", "desk") for suite in claims.CORE[scale]}  # fmt: skip
    suites = {n: families for n, families in suites.items() if families}
    for draw in (aggregate_scores, improvement, performance_profile, sample_efficiency) if suites else ():
        drawn[draw.__name__] = by_suite(suites, draw)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
    return [folder / f"{name}.png" for name in drawn]


def _maps(results: Path) -> dict[str, pd.DataFrame]:
    """The maps of when personalization helps, tabular and deep, as far as they are stored."""
    found = {}
    if (path := results / "tabular" / "map.parquet").exists():
        table = read_table(path).rename(columns={"deployed": "value"}).assign(zero=0.0)  # the uniform policy
        found["tables, points of 100\n(data: gradient evaluations)"] = table
    if (path := results / "map.parquet").exists():
        table = read_table(path).rename(columns={"steps": "data", "return": "value"})
        zeros = json.loads((results / "map.json").read_text())["placebos"]
        for name, rows in table[table["policy"] == "deployed"].groupby("family"):
            rows = rows.assign(zero=[zeros[name][f"{h:g}"] for h in rows["h"]])
            found[f"networks, return on {name}\n(data: environment steps)"] = rows
    return found


def _common(families: list[Scores]) -> list[str]:
    """The learners that every one of the families has, with enough seeds."""
    return [n for n in LEARNERS if all(not s.lack((n,)) for s in families)]


def _scaled(families: list[Scores], strata: list[np.ndarray], statistic: Callable):
    reference, zeros = [s.final("independent") for s in families], [s.placebos[s.zero].mean() for s in families]

    def scaled(runs: list[np.ndarray]) -> np.ndarray:
        return statistic(resampling.normalised(runs, zeros))

    return resampling.stratified_bootstrap(strata + reference, scaled, np.random.default_rng(0), resamples=RESAMPLES)


def _line(axis: Axes, x, band: tuple, learner: str) -> None:
    value, low, high = band
    axis.fill_between(x, low, high, color=COLOURS[learner], alpha=0.2, lw=0)
    axis.plot(x, value, "--" if learner in DASHED else "-", color=COLOURS[learner], label=learner)


def _bars(axis: Axes, intervals: dict[str, tuple[float, float, float]]) -> None:
    for k, (learner, (value, low, high)) in enumerate(intervals.items()):
        colour = COLOURS.get(learner, "0.35")
        axis.plot([low, high], [k, k], color=colour, lw=6, alpha=0.6, solid_capstyle="butt")
        axis.plot(value, k, "o", color=colour)
    axis.set_yticks(range(len(intervals)), intervals)
    axis.set_ylim(len(intervals) - 0.4, -0.6)
