"""Aggregates against brute force, SciPy and rliable; intervals against simulated truth."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import trim_mean

from pmeta_lib.files import UserError
from pmeta_lib.statistics import improvement, iqm, normalised, performance_profile, stratified_bootstrap

RLIABLE = json.loads((Path(__file__).parent / "rliable.json").read_text())


def batched(*strata):
    return [np.asarray(s, float)[None] for s in strata]


@pytest.mark.parametrize("sizes", [(5,), (4, 4), (7, 3, 5), (10, 10, 10, 10)])
def test_interquartile_mean_is_scipys_trimmed_mean(sizes):
    rng = np.random.default_rng(sum(sizes))
    strata = [rng.normal(size=n) for n in sizes]
    assert iqm(batched(*strata))[0] == pytest.approx(trim_mean(np.concatenate(strata), 0.25), rel=1e-12)


def test_interquartile_mean_of_curves_is_taken_at_each_time():
    curves = np.random.default_rng(0).normal(size=(8, 6))
    assert iqm(batched(curves))[0] == pytest.approx(trim_mean(curves, 0.25, axis=0), rel=1e-12)


def test_improvement_counts_pairs_within_families():
    rng = np.random.default_rng(1)
    ours, theirs = ([rng.integers(0, 4, n) for n in sizes] for sizes in ((5, 3), (4, 6)))  # whole numbers: many ties
    counted = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(x, y)])
        for x, y in zip(ours, theirs, strict=True)
    ]
    assert improvement(batched(*ours, *theirs))[0] == pytest.approx(np.mean(counted), rel=1e-12)
    assert improvement(batched(*theirs, *ours))[0] == pytest.approx(1 - np.mean(counted), rel=1e-12)


def test_profile_counts_runs_strictly_above():
    shares = performance_profile(batched([0.0, 0.5, 1.0, 1.5], [0.5, 0.5]), np.array([0.4, 0.5, 2.0]))[0]
    assert shares.tolist() == [(3 / 4 + 1) / 2, (2 / 4 + 0) / 2, 0.0]


def test_normalised_scores_by_hand():
    x, y = normalised(batched([[0.0, 10.0], [20.0, 30.0]], [5.0], [15.0, 25.0], [7.0]), [-20.0, 3.0])
    assert x[0].tolist() == [[0.5, 0.75], [1.0, 1.25]] and y[0].tolist() == [0.5]  # references: mean 20, and 7


def test_agrees_with_rliable():
    """Point estimates exactly; intervals up to the noise of the two bootstraps, 5,000 and 20,000 resamples."""
    x, y = (list(np.array(RLIABLE[name]).T) for name in "xy")
    taus = np.array(RLIABLE["thresholds"])
    cases = {"iqm": (x, iqm), "improvement": ([*x, *y], improvement),
             "profile": (x, lambda s: performance_profile(s, taus))}  # fmt: skip
    for name, (strata, statistic) in cases.items():
        value, low, high = stratified_bootstrap(strata, statistic, np.random.default_rng(0), resamples=20_000)
        point, *ends = map(np.asarray, RLIABLE[name])
        assert value == pytest.approx(point, abs=1e-12), name
        # A quantile's standard error, sqrt(p (1 - p) / R) / density, is here about a hundredth of the width; shares of
        # 24 runs move in steps of 1/24.
        assert np.abs(np.array([low, high]) - ends).max() <= max(0.05 * np.max(high - low), 1 / 24 + 1e-9), name


def test_coverage_of_the_interquartile_mean():
    """3 families x 10 seeds, 400 experiments: 95 % nominal; a percentile bootstrap of 30 runs covers a bit less.

    The share has a standard deviation of 1.3 %, so 89 to 98 % leaves three of them on either side of 93 to 94 %.
    """
    rng, hits = np.random.default_rng(5), 0
    for _ in range(400):
        strata = list(rng.normal(0.9, 0.3, (3, 10)))  # symmetric: the true interquartile mean is the mean
        _, low, high = stratified_bootstrap(strata, iqm, rng, resamples=400)
        hits += low <= 0.9 <= high
    assert 0.89 <= hits / 400 <= 0.98


def area(strata):
    return strata[0].mean((1, 2))


def test_whole_curves_are_drawn():
    """Seeds differ by an offset that lasts. Drawn point by point, the offsets would average out over time."""
    rng = np.random.default_rng(3)
    curves = rng.normal(size=(6, 1)) + 0.1 * rng.normal(size=(6, 100))
    value, low, high = stratified_bootstrap([curves], area, np.random.default_rng(0))
    alone = stratified_bootstrap([curves.mean(1)], lambda s: s[0].mean(1), np.random.default_rng(0))
    assert (value, low, high) == pytest.approx(alone, rel=1e-9)  # an area is one number a run: the same interval
    points = curves[rng.integers(6, size=(2000, 6, 100)), np.arange(100)].mean((1, 2))
    narrow = np.subtract(*np.quantile(points, [0.975, 0.025]))
    assert high - low > 5 * narrow


def test_strata_are_not_mixed():
    """A family of another level does not widen the interval, since each keeps its number of seeds."""
    x = np.random.default_rng(4).normal(size=(2, 6))
    mean = lambda s: np.concatenate(s, 1).mean(1)  # noqa: E731
    ends = [stratified_bootstrap([x[0], x[1] + shift], mean, np.random.default_rng(0)) for shift in (0.0, 100.0)]
    assert ends[1][2] - ends[1][1] == pytest.approx(ends[0][2] - ends[0][1], rel=1e-9)


def test_same_seed_same_interval():
    x = [np.arange(6.0)]
    first, again, other = (stratified_bootstrap(x, iqm, np.random.default_rng(s), resamples=700) for s in (0, 0, 1))
    assert first == again and first != other


@pytest.mark.parametrize("bad", [[1.0], [1.0, np.nan], 3.0])
def test_bad_strata_are_named(bad):
    with pytest.raises(UserError, match=r"stratum 1 of shape .* two or more seeds"):
        stratified_bootstrap([np.arange(3.0), np.array(bad)], iqm, np.random.default_rng(0))
