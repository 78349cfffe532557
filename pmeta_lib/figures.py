"""The look of every figure: one style, one colour per learner, safe for colour-blind readers."""

import seaborn as sns

from pmeta_lib.experiments.learners import LEARNERS as names

LEARNERS = [*names, "fomaml"]  # the order of every figure and table
_PALETTE = sns.color_palette("colorblind", 10)
# No fourteen colours can be told apart by all: an on-policy learner has that of a relative on SAC, and dashed lines.
_OWN = (0, 1, 3, 6, 2, 4, 5, 8, 9, 4, 5, 9, 1, 3)
DASHED = LEARNERS[9 : len(_OWN)]
_ALL = [_PALETTE[i] for i in _OWN] + sns.color_palette("husl", len(LEARNERS) - len(_OWN))
COLOURS = dict(zip(LEARNERS, _ALL)) | {"fomaml": _PALETTE[8], "meta-policy": _PALETTE[7], "scratch": _PALETTE[7]}


def use_style() -> None:
    """Set the style of all later figures: white grid, readable sizes, colour-blind palette, small files."""
    look = {"figure.figsize": (7.0, 3.6), "figure.dpi": 80, "savefig.dpi": 80, "legend.frameon": False,
            "axes.titlesize": "medium", "figure.constrained_layout.use": True}  # fmt: skip
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=look)
