"""The look of every figure: one style, one colour per learner, safe for colour-blind readers."""

import matplotlib.pyplot as plt
import seaborn as sns

_PALETTE = sns.color_palette("colorblind", 10)
LEARNERS = [
    "pmeta", "independent", "joint", "joint-onehot", "pcgrad", "maml", "reptile", "distral", "pearl", "fomaml",
]  # fmt: skip
COLOURS = dict(zip(LEARNERS, [_PALETTE[i] for i in (0, 1, 3, 6, 2, 4, 5, 8, 9, 8)], strict=True)) | {
    "meta-policy": _PALETTE[7],
    "scratch": _PALETTE[7],
}


def use_style() -> None:
    """Set the style of all later figures: white grid, readable sizes, colour-blind palette, small files."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {"figure.figsize": (7.0, 3.6), "figure.dpi": 80, "savefig.dpi": 80, "legend.frameon": False,
         "axes.titlesize": "medium", "figure.constrained_layout.use": True}
    )  # fmt: skip
