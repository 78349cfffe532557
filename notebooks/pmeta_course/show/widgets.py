"""The interactive pictures of the course's tabular half: a slider moves, the picture and its numbers change.

Each function returns an `Explorer`. As the last line of a cell it shows ipywidgets controls (reachable
with Tab, moved with the arrow keys) above a picture; where widgets cannot run (GitHub, a static page) the
same cell shows that picture as it was drawn first. Pictures are redrawn by plain functions, so a test sets
`explorer.controls["lam"].value` and looks at `explorer.image.value`.
"""

import base64
import html
import io
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from pmeta_course.counterexamples import quadratic_run
from pmeta_lib import moreau
from pmeta_lib.figures import COLOURS
from pmeta_lib.tabular import TaskBatch, families, gradient_cosines, joint, policy_gradients

ORANGE, BLUE, GREY = COLOURS["independent"], COLOURS["pmeta"], COLOURS["meta-policy"]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def png(figure: Figure) -> bytes:
    """The figure as PNG in 256 colours: none is off by more than a few of 255 levels, the file is a third of the size.

    The figure is closed, so that a notebook does not show it a second time.
    """
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=plt.rcParams["savefig.dpi"])
    plt.close(figure)
    image = Image.open(full).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def picture(figure: Figure, alt: str) -> None:
    """Display a figure with a text for those who cannot see it (kept in the stored notebook)."""
    display({"image/png": base64.b64encode(png(figure)).decode(), "text/plain": alt}, raw=True,
            metadata={"image/png": {"alt": alt}})  # fmt: skip


def show_table(rows: pd.DataFrame | Iterable[dict]) -> None:
    """Display rows (dictionaries, or a DataFrame) as a table, whose long words wrap as a printed line's do not."""
    frame = pd.DataFrame(rows)
    cells = re.sub(r">\s+<", "><", frame.to_html(index=False, border=0, justify="left", na_rep=""))
    display({"text/html": cells, "text/plain": f"table of {len(frame)} rows"}, raw=True)


@dataclass
class Explorer:
    """Controls and the picture they change. `draw(**values)` returns a figure and one line of numbers."""

    draw: Callable[..., tuple[Figure, str]]
    controls: dict[str, ipywidgets.Widget]
    alt: str

    def __post_init__(self):
        self.arrange()
        for control in self.controls.values():
            control.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    def arrange(self, *buttons: ipywidgets.Button) -> None:
        """Make the box: the controls and `buttons` above the picture."""
        self.image, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        for control in self.controls.values():
            control.style.description_width, control.layout.width = "initial", "25rem"
        top = ipywidgets.HBox([*self.controls.values(), *buttons], layout={"flex_flow": "row wrap"})
        self.box = ipywidgets.VBox([top, self.image, self.text])

    def refresh(self) -> None:
        """Redraw for the controls' present values."""
        self.show(*self.draw_with(**{name: control.value for name, control in self.controls.items()}))

    def draw_with(self, **values) -> tuple[Figure, str]:
        """The figure and its line of numbers for these values of the controls, whatever the controls show."""
        with plt.rc_context({"figure.constrained_layout.use": True}):  # from the start: a colour bar goes by it
            return self.draw(**values)

    def show(self, figure: Figure, numbers: str) -> None:
        """Put a figure and its line of numbers on the screen, in place of those before."""
        figure.supxlabel(textwrap.fill(numbers, int(13 * figure.get_figwidth())), fontsize=9)
        self.png = png(figure)
        source = "data:image/png;base64," + base64.b64encode(self.png).decode()
        alt = html.escape(f"{self.alt} {numbers}", quote=True)
        self.image.value = f'<img alt="{alt}" style="max-width:100%" src="{source}">'
        # read aloud on every change; for the eye the picture has the same line below it
        hidden = "position:absolute; bottom:0; width:1px; height:1px; overflow:hidden; clip-path:inset(50%)"
        self.text.value = f'<span role="status" style="{hidden}">{html.escape(numbers)}</span>'
        self.numbers = numbers

    def _ipython_display_(self) -> None:
        alt = f"{self.alt} {self.numbers}"
        bundle = {"text/plain": alt, "image/png": base64.b64encode(self.png).decode()}
        view = {WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}
        display(bundle | view, raw=True, metadata={"image/png": {"alt": alt}})


def _slider(text: str, value: float, low: float, high: float, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(value, min=low, max=high, step=step, description=text, readout_format=".2f")


def _log_slider(text: str, value: float, low: int, high: int) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(value, min=low, max=high, step=0.1, description=text, readout_format=".2g")


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def two_armed_policies(lam: np.ndarray, agreement: float, gamma: float = 0.9, rounds: int = 200):
    """pMeta's fixed point on two bandits: task 1 pays arm 1, task 2 pays arm 1 with weight `agreement`.

    The policy is one number d, the logit difference of the arms. Returns theta and (y_1, y_2) for every
    lambda; the inner problem `kappa_i sigmoid'(y) = (lam/2) (y - theta)` is solved by bisection.
    """
    kappa = np.array([1.0, 2 * agreement - 1])[:, None] / (1 - gamma)
    theta = np.zeros_like(lam)
    for _ in range(rounds):
        low, high = np.zeros((2, lam.size)), np.full((2, lam.size), 60.0)
        for _ in range(50):
            middle = (low + high) / 2
            p = _sigmoid(theta + np.sign(kappa) * middle)
            inside = np.abs(kappa) * p * (1 - p) > lam / 2 * middle
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        y = theta + np.sign(kappa) * (low + high) / 2
        theta = moreau.meta_step(theta, y.mean(0), 0.5)
    return theta, y


def lambda_slider(lam: float = 0.1, agreement: float = 0.0) -> Explorer:
    """How far lambda lets two conflicting tasks walk away from their meta-policy, and what that earns."""
    grid = np.logspace(-3, 2, 60)

    def draw(lam, agreement):
        pays = np.array([[1.0], [agreement]])  # what arm 1 pays in each task; arm 2 pays the rest

        def returns(d):
            p = _sigmoid(d)
            return (pays * p + (1 - pays) * (1 - p)) / 0.1

        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4))
        x = np.linspace(-9, 9, 181)
        curves, (theta, y) = returns(x), two_armed_policies(np.array([lam]), agreement)
        for i, colour in enumerate((BLUE, ORANGE)):
            left.plot(x, curves[i], color=colour, label=f"task {i + 1}", ls=["-", "--"][i])
            left.plot(y[i], returns(y)[i], "os"[i], color=colour, ms=9)
        left.plot(x, curves.mean(0), color=GREY, lw=1, label="mean of both")
        left.axvline(theta[0], color=GREY, ls=":", label="meta-policy")
        left.set(xlabel="policy: logit difference of the two arms", ylabel="return J (per episode)")
        left.set(xlim=(-9, 9), ylim=(-0.5, 14))
        left.legend(fontsize="small", ncol=2, loc="upper center")
        thetas, ys = two_armed_policies(grid, agreement)
        right.semilogx(grid, returns(ys).mean(0), color=BLUE, label="personalized")
        right.semilogx(grid, returns(thetas).mean(0), color=GREY, label="meta")
        right.axvline(lam, color="k", lw=1)
        right.set(xlabel="lambda (return per squared logit)", ylabel="mean return J", ylim=(0, 10.5))
        right.legend(fontsize="small")
        earned = f"personalized return {returns(y).mean():.2f}, meta-policy {returns(theta).mean():.2f}."
        return figure, f"lambda = {lam:.3g}: {earned}"

    controls = {"lam": _log_slider("lambda", lam, -3, 2),
                "agreement": _slider("agreement of the tasks", agreement, 0.0, 1.0, 0.05)}  # fmt: skip
    return Explorer(draw, controls, "Returns of two tasks over the policy, and over lambda.")


def gradient_field(h: float = 0.6, arrows: str = "both tasks") -> Explorer:
    """Gradients of two tasks over all policies of a two-state MDP; colour: their cosine (red: conflict)."""
    side = np.linspace(-3, 3, 11)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    theta = np.stack([grid / 2, -grid / 2], -1)
    stay, leave = np.eye(2), np.eye(2)[::-1]
    P = np.broadcast_to(np.stack([stay, leave], 1), (2 * len(grid), 2, 2, 2))
    in_0, stay_in_1 = np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])

    def draw(h, arrows):
        # task 1 is paid for being in state 0; task 2's pay moves from there to staying in state 1
        r = np.stack([in_0, (1 - h) * in_0 + h * stay_in_1]).repeat(len(grid), 0)
        tasks = TaskBatch(P, r, np.full((len(r), 2), 0.5), 0.9)
        g = policy_gradients(tasks, np.concatenate([theta, theta])).reshape(2, len(grid), 2, 2)
        g = g[..., 0] - g[..., 1]
        norms = np.linalg.norm(g, axis=-1)
        # a task that is indifferent (h = 0.5) has no direction: rounding must not be drawn as conflict
        cosine = np.where(norms.min(0) > 1e-9, (g[0] * g[1]).sum(-1) / np.maximum(norms.prod(0), 1e-18), 0.0)
        figure, axes = plt.subplots(figsize=(6.0, 4.0))
        mesh = axes.pcolormesh(side, side, cosine.reshape(11, 11).T, cmap="RdBu", vmin=-1, vmax=1, alpha=0.35)
        if arrows == "both tasks":
            for i, colour in enumerate((BLUE, ORANGE)):
                axes.quiver(*grid.T, *g[i].T, color=colour, label=f"gradient of task {i + 1}")
        else:
            axes.quiver(*grid.T, *g.mean(0).T, color="k", label="joint gradient (mean)")
        axes.set(xlabel="state 0: logit(stay) - logit(leave)", ylabel="state 1: logit(stay) - logit(leave)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncol=2, fontsize="small")
        axes.grid(False)
        figure.colorbar(mesh, label="cosine of the two gradients")
        shrink = np.linalg.norm(g.mean(0), axis=-1).mean() / np.maximum(norms.mean(), 1e-18)
        numbers = f"h = {h:.2f}: conflict at {np.mean(cosine < 0):.0%} of the policies; "
        return figure, numbers + f"the joint gradient keeps {shrink:.0%} of a task gradient's length."

    choices = ipywidgets.Dropdown(options=["both tasks", "joint"], value=arrows, description="arrows")
    controls = {"h": _slider("heterogeneity h", h, 0.0, 1.0, 0.05), "arrows": choices}
    return Explorer(draw, controls, "Field of policy gradients of two tasks.")


FUNCTIONS = {
    "quadratic": lambda x: 0.5 * (x - 1) ** 2,
    "absolute value": np.abs,
    "two valleys": lambda x: 0.25 * (x**2 - 2) ** 2 + 0.3 * x,
    "minus return of a bandit": lambda x: -3 * _sigmoid(2 * x),
}


def envelope_explorer(function: str = "two valleys", lam: float = 1.0, theta: float = 0.6) -> Explorer:
    """A function of one variable, its Moreau envelope, and the parabola that touches both at the prox."""
    x = np.linspace(-3, 3, 1201)

    def draw(function, lam, theta):
        f = FUNCTIONS[function](x)
        envelope = (f[None, :] + lam / 2 * (x[None, :] - x[::8, None]) ** 2).min(1)
        total = f + lam / 2 * (x - theta) ** 2
        best = total.argmin()
        valleys = np.sum((total[1:-1] < total[:-2]) & (total[1:-1] < total[2:]))
        figure, axes = plt.subplots(figsize=(7.0, 3.8))
        axes.plot(x, f, color=GREY, label="f(x)")
        axes.plot(x[::8], envelope, color=BLUE, lw=2.5, label="envelope F(x)")
        axes.plot(x, total[best] - lam / 2 * (x - theta) ** 2, "k:", lw=1, label="parabola touching f from below")
        axes.plot(x[best], f[best], "o", color=ORANGE, ms=9, label="prox: the personalized point")
        axes.plot(theta, total[best], "s", color=BLUE, ms=9, label="theta: the meta point")
        axes.set(xlabel="x", ylabel="value", ylim=(min(f.min(), -0.2) - 0.4, max(3.4, f[300] + 1)))
        axes.legend(fontsize="small", ncol=2, loc="upper center")
        slope = f"F'(theta) = lambda (theta - prox) = {lam * (theta - x[best]):.3f}"
        numbers = f"prox = {x[best]:.2f}, F(theta) = {total[best]:.3f}, {slope}; "
        return figure, numbers + f"local minima of the inner problem: {valleys}."

    controls = {
        "function": ipywidgets.Dropdown(options=list(FUNCTIONS), value=function, description="f"),
        "lam": _log_slider("lambda", lam, -1, 2),
        "theta": _slider("theta", theta, -2.5, 2.5, 0.1),
    }
    return Explorer(draw, controls, "A function and its Moreau envelope.")


def heterogeneity_explorer(h: float = 0.5, seed: int = 0, rounds: int = 60) -> Explorer:
    """Cosines of ten Garnet tasks' gradients at the uniform policy and after joint training."""

    def draw(h, seed):
        tasks = families.garnet(h, n_train=10, n_test=1, seed=seed).train
        start = np.zeros(tasks.r.shape[1:])
        after = joint(tasks, start, rounds=rounds, inner_step_size=50.0).theta
        figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.6), layout="constrained")
        shares = []
        for axis, theta, title in zip(axes, (start, after), ("uniform policy", "after joint training")):
            matrix = gradient_cosines(policy_gradients(tasks, theta))
            shares.append(np.mean(matrix[np.triu_indices(10, 1)] < 0))
            image = axis.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
            axis.set(xlabel="task", ylabel="task", title=f"{title}:\n{shares[-1]:.0%} of pairs in conflict")
            axis.grid(False)
        figure.colorbar(image, ax=axes, label="cosine of the gradients")
        return (figure, f"h = {h:.2f}: conflict rate {shares[0]:.0%} at the start, {shares[1]:.0%} after training.")

    controls = {"h": _slider("heterogeneity h", h, 0.0, 1.0, 0.05),
                "seed": ipywidgets.IntSlider(seed, min=0, max=9, description="seed")}  # fmt: skip
    return Explorer(draw, controls, "Cosines between the gradients of ten tasks.")


def quadratic_pmeta(a, c, lam, eta, beta, step_size, inner_steps, local_steps, warm, rounds, theta=2.0):
    """pMeta on `f_i(x) = (a_i/2)(x - c_i)^2`: theta before every round, and after the last."""
    a, c = np.asarray(a, float), np.asarray(c, float)
    how = dict(lam=lam, eta=eta, beta=beta, inner_steps=inner_steps, inner_step_size=step_size, local_steps=local_steps)
    return quadratic_run(a, c, rounds=rounds, warm_start=warm, theta0=theta, **how)[0]


def step_size_explorer(step: float = 1.0, inner_steps: int = 2, lam: float = 2.0, warm: bool = False,
                       local_steps: int = 1) -> Explorer:  # fmt: skip
    """What an inexact inner solve does: gradient norm of F over rounds on two quadratics (a = 1, 4)."""
    a, c, L, rounds = np.array([1.0, 4.0]), np.array([0.0, 1.0]), 4.0, 40

    def draw(step, inner_steps, lam, warm, local_steps):
        figure, axes = plt.subplots(figsize=(7.0, 3.6))
        curvature = a * lam / (a + lam)

        def norms(path):
            return np.abs((curvature * (path[:, None] - c)).mean(1))

        common = dict(a=a, c=c, lam=lam, eta=1 / lam, beta=1.0, rounds=rounds)
        exact = norms(quadratic_pmeta(step_size=1 / (L + lam), inner_steps=400, local_steps=1, warm=True, **common))
        chosen = dict(step_size=step / (L + lam), inner_steps=inner_steps, local_steps=local_steps, warm=warm)
        with np.errstate(over="ignore", invalid="ignore"):
            mine = norms(quadratic_pmeta(**chosen, **common))
        axes.semilogy(np.maximum(exact, 1e-16), color=GREY, ls="--", label="exact inner solution, R = 1")
        shown = np.where(np.isfinite(mine), np.clip(mine, 1e-16, 1e6), 1e6)
        axes.semilogy(shown, color=BLUE, label=f"K = {inner_steps}, R = {local_steps}, {'warm' if warm else 'cold'}")
        axes.set(xlabel="round", ylabel="|F'(theta)|", ylim=(1e-16, 1e3))
        axes.legend()
        end = shown[-1]
        verdict = "reaches the minimiser" if end < 1e-6 else f"gradient norm {end:.2g} at the end"
        verdict = verdict if end < 1e3 else "diverges"
        return figure, f"s = {step:.2f}/(L + lambda), K = {inner_steps}, lambda = {lam:.3g}: {verdict}."

    controls = {"step": _slider("s (L + lambda)", step, 0.1, 2.5, 0.1),
                "inner_steps": ipywidgets.IntSlider(inner_steps, min=1, max=20, description="K"),
                "lam": _log_slider("lambda", lam, -2, 2),
                "warm": ipywidgets.Checkbox(warm, description="warm start"),
                "local_steps": ipywidgets.IntSlider(local_steps, min=1, max=5, description="R")}  # fmt: skip
    return Explorer(draw, controls, "Gradient norm of the meta-objective over rounds.")
