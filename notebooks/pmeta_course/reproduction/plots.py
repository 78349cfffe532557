"""The figures of the report, from the stored results. (`figures` holds the look alone and loads faster.)"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pmeta_course.reproduction import claims
from pmeta_course.reproduction.scores import Scores, load
from pmeta_lib import statistics
from pmeta_lib.figures import COLOURS, LEARNERS, use_style

RESAMPLES = 2000
LEGEND = {"fontsize": "x-small", "frameon": True, "framealpha": 0.85, "edgecolor": "none"}


def learning_curves(found: list[Scores]) -> Figure:
    """A panel a family: mean return over steps, every learner with its 95 % interval over seeds; the scale's ends."""
    rows, columns = -(-len(found) // 2), min(2, len(found))
    figure, axes = plt.subplots(rows, columns, figsize=(9.5 if columns > 1 else 7, 3.6 * rows), squeeze=False)
    for axis, scores in zip(axes.flat, found):
        for learner in [n for n in (*LEARNERS, "scratch") if n in scores.curves]:
            curve = scores.curves[learner]
            band = (curve.to_numpy()[0],) * 3
            if len(curve) > 1:
                band = _interval([curve.to_numpy()], lambda strata: strata[0].mean(1))
            _line(axis, curve.columns, band, learner, learner)
        if scores.random is not None:
            axis.axhline(scores.random, color="0.35", ls=":", label="random actions")
        if "independent" in scores.curves and scores.split == "train":
            axis.axhline(scores.final("independent").mean(), color="0.35", ls="--", label="independent, at the end")
        steps = "environment steps per task" if scores.split == "train" else "steps of adaptation per task"
        counts = [len(curve) for curve in scores.curves.values()]
        seeds = "-".join(map(str, sorted({min(counts), max(counts)})))
        axis.set(
            title=f"{scores.name}, {scores.split} tasks, {seeds} seeds",
            xlabel=steps,
            ylabel="return per episode\n(mean, 95 % interval)",
        )
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    shown = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=min(len(shown), 3 * columns), **LEGEND)
    return figure


def aggregate_scores(axis: Axes, families: list[Scores]) -> None:
    """Interquartile mean of every learner's normalised score with its 95 % interval; 0 random, 1 independent SAC."""
    _bars(axis, {n: claims.aggregate(families, n) for n in _common(families)})
    axis.set(xlabel="normalised score\n(interquartile mean, 95 % interval)")


def improvement(axis: Axes, families: list[Scores]) -> None:
    """Probability that a run of pMeta beats one of another learner, with its 95 % interval."""
    _bars(axis, {n: claims.improvement(families, "pmeta", n) for n in _common(families) if n != "pmeta"})
    axis.axvline(0.5, color="0.35", ls=":")
    axis.set(xlabel="probability that pMeta beats it\n(95 % interval)", xlim=(-0.03, 1.03))


def performance_profile(axis: Axes, families: list[Scores]) -> None:
    """Share of runs above each normalised score, with 95 % bands."""
    grid = np.linspace(-0.2, 1.4, 81)
    for learner in _common(families):
        strata = [s.final(learner) for s in families]
        band = _scaled(families, strata, lambda x: statistics.performance_profile(x, grid))
        _line(axis, grid, band, learner, learner)
    axis.set(xlabel="normalised score s", ylabel="share of runs with score > s\n(95 % interval)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, **LEGEND)


def sample_efficiency(axis: Axes, families: list[Scores]) -> None:
    """Interquartile mean of the normalised score over the share of the budget spent, whole curves resampled."""
    share = np.linspace(0, 1, 41)
    for learner in _common(families):
        curves = [s.curves[learner] for s in families]
        strata = [np.array([np.interp(share * c.columns[-1], c.columns, run) for run in c.to_numpy()]) for c in curves]
        _line(axis, 100 * share, _scaled(families, strata, statistics.iqm), learner, learner)
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
    found, drawn = load(results), {}
    train, test = ([s for s in found if s.split == split] for split in ("train", "test"))
    for name, shown in (("main_result", [s for s in train if s.name == "half-cheetah-dir"]),
                        ("learning_curves", train), ("adaptation", test)):  # fmt: skip
        if shown:
            drawn[name] = learning_curves(shown)
    suites = {n: claims.select(train, n, "train", ("pmeta", "independent"), scaled=True)[0] for n in claims.CORE}
    suites = {n: families for n, families in suites.items() if families}
    for draw in (aggregate_scores, improvement, performance_profile, sample_efficiency) if suites else ():
        drawn[draw.__name__] = by_suite(suites, draw)
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
    return [folder / f"{name}.png" for name in drawn]


def _common(families: list[Scores]) -> list[str]:
    """The learners that every one of the families has, with enough seeds."""
    return [n for n in LEARNERS if all(not s.lack((n,), False) for s in families)]


def _scaled(families: list[Scores], strata: list[np.ndarray], statistic: Callable):
    reference, zeros = [s.final("independent") for s in families], [s.random for s in families]
    return _interval(strata + reference, lambda x: statistic(statistics.normalised(x, zeros)))


def _interval(strata: list[np.ndarray], statistic: Callable):
    return statistics.stratified_bootstrap(strata, statistic, np.random.default_rng(0), resamples=RESAMPLES)


def _line(axis: Axes, x, band: tuple, learner: str, label: str) -> None:
    value, low, high = band
    axis.fill_between(x, low, high, color=COLOURS[learner], alpha=0.2, lw=0)
    axis.plot(x, value, color=COLOURS[learner], label=label)


def _bars(axis: Axes, intervals: dict[str, tuple[float, float, float]]) -> None:
    for k, (learner, (value, low, high)) in enumerate(intervals.items()):
        axis.plot([low, high], [k, k], color=COLOURS[learner], lw=6, alpha=0.6, solid_capstyle="butt")
        axis.plot(value, k, "o", color=COLOURS[learner])
    axis.set_yticks(range(len(intervals)), intervals)
    axis.set_ylim(len(intervals) - 0.4, -0.6)
