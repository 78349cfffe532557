"""The idea itself, in one page: personalized policies tied to a meta-policy by a Moreau envelope.

    F(theta) = (1/N) sum_i F_i(theta),   F_i(theta) = min_x { f_i(x) + (lam/2) ||x - theta||^2 },   f_i = -J_i

A minimiser x is task i's *personalized policy*. The paper (arXiv 2209.10072) claims the scheme: personalized policies
under a proximity constraint to a meta-policy, aggregated into it. That the constraint is this quadratic penalty, and
the update below, are our formulation, in the line of pFedMe (Dinh et al., NeurIPS 2020).

    w = theta                                            once a round, for every drawn task i
    repeat R times:
        repeat K times:  y_i <- y_i + s (grad J_i(y_i) - lam (y_i - w))        `inner_step`, `proximal_pull`
        w <- w - eta lam (w - y_i)                                             `local_step`
    theta <- (1 - beta) theta + beta mean_i w_i                                `meta_step`

Every function is plain arithmetic on NumPy arrays and torch tensors alike, of any shape that broadcasts: tabular
policies are (N, S, A), deep ones (seeds, tasks, parameters)."""

from typing import Any

Array = Any  # a NumPy array or a torch tensor: what goes in comes out


def proximal_pull(y: Array, w: Array, lam: float) -> Array:
    """`lam (y - w)`, the gradient of the penalty `(lam/2) ||y - w||^2` at y."""
    return lam * (y - w)


def inner_step(y: Array, ascent: Array, w: Array, lam: float, step_size: float) -> Array:
    """One ascent step on `J(y) - (lam/2) ||y - w||^2`; `ascent` is the gradient of J at y."""
    return y + step_size * (ascent - proximal_pull(y, w, lam))


def implicit_step(y: Array, w: Array, lam: float, step_size: float | Array) -> Array:
    """The proximal term alone, as an implicit (backward Euler) step: stable for every `lam >= 0`.
    `argmin_x (1/2s) ||x - y||^2 + (lam/2) ||x - w||^2`; after an optimizer that would rescale it ("decoupled")."""
    return (y + (step_size * lam) * w) / (1.0 + step_size * lam)


def local_step(w: Array, y: Array, eta_lam: float) -> Array:
    """One step of size eta down the envelope's gradient at w, `lam (w - y)` (T1): `eta lam` of the way to y."""
    return w - eta_lam * (w - y)


def meta_step(theta: Array, mean_w: Array, beta: float) -> Array:
    """Aggregate: move the meta-policy towards the mean of the tasks' local copies `mean_w`."""
    return (1.0 - beta) * theta + beta * mean_w


def envelope(f_at_y: Array, y: Array, theta: Array, lam: float, axes: tuple[int, ...]) -> Array:
    """`f(y) + (lam/2) ||y - theta||^2`, squared norm summed over `axes`; F_i(theta) if y is the prox."""
    return f_at_y + (lam / 2.0) * ((y - theta) ** 2).sum(axes)


def envelope_gradient(theta: Array, prox: Array, lam: float) -> Array:
    """`lam (theta - prox)`, the exact gradient of the envelope of f when lam > L (T1)."""
    return lam * (theta - prox)
