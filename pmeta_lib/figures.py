"""The look of every figure: one style, one colour per learner, safe for colour-blind readers."""

import matplotlib.pyplot as plt
import seaborn as sns

from pmeta_lib.experiments.learners import LEARNERS as names

LEARNERS = [*names, "fomaml"]  # the order of every figure and table
_PALETTE = sns.color_palette("colorblind", 10)
_FIRST = {name: _PALETTE[i] for name, i in zip(LEARNERS, (0, 1, 3, 6, 2, 4, 5, 8, 9))}
_MORE = [name for name in LEARNERS if name not in _FIRST]
COLOURS = _FIRST | dict(zip(_MORE, sns.color_palette("husl", len(_MORE)))) | {
    "fomaml": _PALETTE[8], "meta-policy": _PALETTE[7], "scratch": _PALETTE[7]}  # fmt: skip


def use_style() -> None:
    """Set the style of all later figures: white grid, readable sizes, colour-blind palette, small files."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {"figure.figsize": (7.0, 3.6), "figure.dpi": 80, "savefig.dpi": 80, "legend.frameon": False,
         "axes.titlesize": "medium", "figure.constrained_layout.use": True}
    )  # fmt: skip
