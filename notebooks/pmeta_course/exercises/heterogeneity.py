"""Exercises of notebook 13: for each the right answer, inputs to try it on, and the usual mistakes."""

from scipy.stats import binom

from pmeta_course.exercises.checkers import choice, function


def _error(h2, v, w):
    return w**2 * v + (1 - w) ** 2 * h2


def _weight(h2, v):
    return h2 / (h2 + v)


def _stars(cells, p, most=0.05, exceed=False):
    return next(k for k in range(cells + 2) if binom.sf(k if exceed else k - 1, cells, p) <= most)


_VARIANCES = [(0.25, 0.1, 0.3), (4.0, 1.5, 0.8), (0.0, 2.0, 0.5), (3, 0, 0), (1.0, 0.5, 1)]
EXERCISES = {
    "13.1": function(_error, _VARIANCES, lambda h2, v, w: {
        "the weights enter squared: they multiply errors, and it is their squares that are averaged":
            w * v + (1 - w) * h2,
        "the other way round: the task's own estimate has weight w and variance v": (1 - w) ** 2 * v + w**2 * h2,
        "that squares a sum: the two errors are independent, so their product averages to 0":
            (w * v**0.5 + (1 - w) * h2**0.5) ** 2,
        "h2 and v are variances already: do not square them": w**2 * v**2 + (1 - w) ** 2 * h2**2,
    }, "the error"),
    "13.2": function(_weight, [(0.25, 0.1), (4.0, 1.5), (0.0, 2.0), (3, 0), (1, 1)], lambda h2, v: {
        "that is the weight of the mean; the own weight is what is left": v / (h2 + v),
        "h2 and v are variances already": h2**2 / (h2**2 + v**2),
        "that is h / (h + sqrt v): weigh by variances, not by standard deviations": h2**0.5 / (h2**0.5 + v**0.5),
        "that is lambda, or one over it; the weight is 1 / (1 + lambda)": v / h2 if h2 else float("inf"),
    }, "the weight"),
    "13.3": choice("b", {
        "a": "the name is no argument: look at the row h = 0.75, where the first number is the largest",
        "c": "look at the second numbers of that row: one policy for all cannot do it, however many tasks",
        "d": "look again: pMeta's interval against learning alone lies below 0 in several cells of that row",
    }),
    "13.4": function(_stars, [(20, 0.025), (60, 0.025), (1, 0.5), (5, 0.0), (100, 0.3)], lambda cells, p: {
        "that many or *more*: P(X >= k) is `binom.sf(k - 1, ...)`; yours is one too small":
            _stars(cells, p, exceed=True),
        "that is the mean number of stars; ask for the number that chance seldom reaches": cells * p,
        "not 2.5 %: only many stars are of interest, one side": _stars(cells, p, most=0.025),
    }, "the number"),
}  # fmt: skip
