"""The look of every figure: one style, one colour per learner, safe for colour-blind readers."""

import matplotlib.pyplot as plt

# The ten-colour palette of seaborn's "colorblind" and its theme "whitegrid", without the seconds its import takes.
_PALETTE = "#0173b2 #de8f05 #029e73 #d55e00 #cc78bc #ca9161 #fbafe4 #949494 #ece133 #56b4e9".split()
_THEME = {
    "axes.axisbelow": True, "axes.edgecolor": "0.8", "axes.grid": True, "axes.labelcolor": "0.15",
    "axes.labelsize": 12, "axes.linewidth": 1.25, "axes.prop_cycle": plt.cycler(color=_PALETTE), "font.size": 12,
    "grid.color": "0.8", "grid.linewidth": 1.0, "image.cmap": "cividis", "legend.fontsize": 11,
    "legend.title_fontsize": 12, "lines.solid_capstyle": "round", "patch.edgecolor": "w",
    "patch.force_edgecolor": True, "text.color": "0.15", "xtick.bottom": False, "xtick.color": "0.15",
    "xtick.labelsize": 11, "ytick.color": "0.15", "ytick.labelsize": 11, "ytick.left": False,
}  # fmt: skip
LEARNERS = [
    "pmeta", "independent", "joint", "joint-onehot", "pcgrad", "maml", "reptile", "distral", "pearl", "fomaml",
]  # fmt: skip
COLOURS = dict(zip(LEARNERS, [_PALETTE[i] for i in (0, 1, 3, 6, 2, 4, 5, 8, 9, 8)], strict=True)) | {
    "meta-policy": _PALETTE[7],
    "scratch": _PALETTE[7],
}


def use_style() -> None:
    """Set the style of all later figures: white grid, readable sizes, colour-blind palette, small files."""
    plt.rcParams.update(
        _THEME
        | {"figure.figsize": (7.0, 3.6), "figure.dpi": 80, "savefig.dpi": 80, "legend.frameon": False,
         "axes.titlesize": "medium", "figure.constrained_layout.use": True}
    )  # fmt: skip
