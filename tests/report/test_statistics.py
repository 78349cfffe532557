"""Aggregates against brute force, SciPy and rliable; intervals against simulated truth."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pmeta_course.reproduction import statistics
from pmeta_course.reproduction.resampling import (
    bootstrap_interval,
    improvement,
    iqm,
    normalised,
    performance_profile,
    stratified_bootstrap,
)
from scipy import stats as scipy_stats
from scipy.stats import trim_mean

from pmeta_lib.files import UserError

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
        value, low, high = stratified_bootstrap(
            strata, statistic, np.random.default_rng(0), resamples=20_000, expanded=False
        )
        point, *ends = map(np.asarray, RLIABLE[name])
        assert value == pytest.approx(point, abs=1e-12), name
        # A quantile's standard error, sqrt(p (1 - p) / R) / density, is here about a hundredth of the width; shares of
        # 24 runs move in steps of 1/24.
        assert np.abs(np.array([low, high]) - ends).max() <= max(0.05 * np.max(high - low), 1 / 24 + 1e-9), name


LAWS = {  # mean 0; the skewed ones as skewed as an exponential, and one run in five that fails
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed up": lambda rng, n: rng.exponential(size=n) - 1,
    "skewed down": lambda rng, n: 1 - rng.exponential(size=n),
    "one in five fails": lambda rng, n: 0.2 * rng.normal(size=n) - (rng.random(n) < 0.2) + 0.2,
}
TIMES = 2000
NEARLY = 0.93 - 2 * np.sqrt(0.93 * 0.07 / TIMES)  # a share of 93 % counted in so many experiments, two errors below


def covers(make, truth, times=TIMES):
    found = [make() for _ in range(times)]
    return np.mean([low <= truth <= high for _, low, high in found])


@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_means_cover_93_percent_at_five_seeds(law):
    rng, draw = np.random.default_rng(1), LAWS[law]
    assert covers(lambda: statistics.mean_interval(draw(rng, 5)), 0.0) >= NEARLY
    assert covers(lambda: statistics.difference_interval(3 * draw(rng, 5), draw(rng, 10)), 0.0) >= NEARLY
    other = LAWS["normal"]
    weights = [1.0, -1.0, -0.8, 0.8]  # as the deficits of claim C1
    four = lambda: [draw(rng, 5), other(rng, 5), draw(rng, 5), other(rng, 5)]  # noqa: E731
    assert covers(lambda: statistics.contrast(four(), weights), 0.0) >= NEARLY


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("reference", ["normal", "skewed up"])
def test_intervals_of_scores_cover_93_percent_at_five_seeds(law, reference):
    """True score 0.8 on a scale whose upper end is uncertain by a fifth, its lower end by a twentieth."""
    rng = np.random.default_rng(2)
    x = lambda: 0.8 * (1 + 0.2 * LAWS[law](rng, 5))  # noqa: E731
    one = lambda: 1 + 0.2 * LAWS[reference](rng, 5)  # noqa: E731
    assert covers(lambda: statistics.score_interval(x(), one(), 0.05 * rng.normal(size=10)), 0.8) >= NEARLY


@pytest.mark.parametrize("families", [1, 3, 5])
@pytest.mark.parametrize(
    ("law", "spread"), [("normal", 1.0), ("normal", 4.0), ("skewed up", 1.0), ("skewed down", 2.0)]
)
def test_intervals_of_the_probability_of_improvement_cover_93_percent_at_five_seeds(families, law, spread):
    rng, draw = np.random.default_rng(3), LAWS[law]
    for shift in (0.0, 1.0, 2.5):
        many = (draw(rng, 400_000) + shift > spread * draw(rng, 400_000)).mean()
        ours = lambda shift=shift: [draw(rng, 5) + shift for _ in range(families)]  # noqa: E731
        theirs = lambda: [spread * draw(rng, 5) for _ in range(families)]  # noqa: E731
        share = covers(lambda: statistics.improvement_interval(ours(), theirs()), many, TIMES // 4)  # noqa: B023
        assert share >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / (TIMES // 4))


def test_students_t_and_the_percentile_bootstrap_do_not_cover():
    """Why not simpler: the simulation above can fail."""
    rng, draw = np.random.default_rng(4), LAWS["skewed down"]
    assert covers(lambda: t_interval(draw(rng, 5)), 0.0) < 0.90
    boot = lambda: bootstrap_interval(LAWS["normal"](rng, 5), rng, resamples=300)  # noqa: E731
    assert covers(boot, 0.0, 400) < 0.90


def t_interval(x):
    half = scipy_stats.t.ppf(0.975, len(x) - 1) * scipy_stats.sem(x)
    return x.mean(), x.mean() - half, x.mean() + half


def test_contrast_is_welchs_interval_at_a_quarter_of_the_error():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=5), 3 * rng.normal(size=9)
    ours = statistics.difference_interval(a, b)
    theirs = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(1 - 0.05 / 4)
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), rel=1e-9) and ours[0] == a.mean() - b.mean()


def test_a_score_without_a_scale_has_no_bounds():
    x, one, zero = np.arange(5.0), np.array([-1.0, 0.0, 1.0, 2.0, -2.0]), np.zeros(10)
    assert statistics.score_interval(x, one + 0.1, zero)[1:] == (-np.inf, np.inf)
    value, low, high = statistics.score_interval(x + 10, np.full(5, 10.0), zero)  # a scale that is known
    assert (value, low, high) == pytest.approx(np.array(statistics.mean_interval(x + 10)) / 10)


def test_wilson_holm_and_the_p_agree():
    wilson = scipy_stats.binomtest(5, 5).proportion_ci(0.95, "wilson")
    all_won = statistics.improvement_interval([np.arange(5.0) + 9], [np.arange(5.0)])
    assert all_won[1:] == pytest.approx((wilson.low, wilson.high)) and all_won[0] == 1
    for shift in np.linspace(0, 6, 25):  # p below 0.025 exactly where the interval exceeds one half
        pair = [np.arange(5.0) + shift + 0.01] * 3, [np.arange(5.0)] * 3
        assert (statistics.improvement_p(*pair) < 0.025) == (statistics.improvement_interval(*pair)[1] > 0.5)
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand
    assert statistics.holm([1.0, 1e-4]) == pytest.approx([1.0, 2e-4])


def test_minus_is_newcombes():
    """Newcombe 1998, method 10, his example 56/70 against 48/80: 0.2 [0.0524, 0.3339]."""
    a, b = ((k / n, *scipy_stats.binomtest(k, n).proportion_ci(0.95, "wilson")) for k, n in ((56, 70), (48, 80)))
    assert statistics.minus(a, b) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_last_quarter_counts_steps_above_three_quarters():
    assert statistics.last_quarter(np.array([0, 30, 31, 40])).tolist() == [False, False, True, True]


def test_coverage_of_the_interquartile_mean():
    """3 families x 5 seeds, 400 experiments: the expanded percentiles cover at least 93 %, up to two errors."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(400):
        strata = list(rng.normal(0.9, 0.3, (3, 5)))  # symmetric: the true interquartile mean is the mean
        _, low, high = stratified_bootstrap(strata, iqm, rng, resamples=400)
        hits += low <= 0.9 <= high
    assert 0.93 - 2 * 0.0128 <= hits / 400 <= 0.995


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
