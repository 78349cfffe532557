"""The page of formulas, against closed forms on quadratics and against itself on torch tensors."""

import numpy as np
import pytest
import torch
from pmeta_course.counterexamples import quadratic_minimiser, quadratic_prox, quadratic_run

from pmeta_lib import moreau

a, c = np.array([1.0, 4.0]), np.array([0.0, 1.0])


def test_inner_steps_converge_to_the_closed_form_prox():
    y, theta, lam = np.zeros(2), 0.7, 2.0
    for _ in range(200):
        y = moreau.inner_step(y, -a * (y - c), theta, lam, 1 / 6)
    np.testing.assert_allclose(y, (a * c + lam * theta) / (a + lam), atol=1e-14)


def test_envelope_curvature_gradient_and_minimiser_of_the_worked_example():
    lam, theta = 2.0, np.linspace(-1, 2, 7)[:, None]
    prox = quadratic_prox(a, c, theta, lam)
    np.testing.assert_allclose(moreau.envelope_gradient(theta, prox, lam), a * (prox - c), atol=1e-14)
    F = moreau.envelope(a / 2 * (prox - c) ** 2, prox, theta, lam, ())
    np.testing.assert_allclose(F, a * lam / (a + lam) / 2 * (theta - c) ** 2, atol=1e-14)
    best = quadratic_minimiser(a, c, lam)
    assert best == pytest.approx(2 / 3, abs=1e-15)
    np.testing.assert_allclose(quadratic_prox(a, c, best, lam), [4 / 9, 8 / 9], atol=1e-15)
    at_best = quadratic_prox(a, c, best, lam)
    assert moreau.envelope(a / 2 * (at_best - c) ** 2, at_best, best, lam, ()).mean() == pytest.approx(1 / 9)


@pytest.mark.parametrize("R, fixed_point", [(1, 0.6666666667), (2, 0.6451612903), (5, 0.5921248794)])
def test_fixed_points_of_more_local_steps(R, fixed_point):
    theta, _ = quadratic_run(a, c, rounds=500, lam=2.0, eta=0.25, inner_steps=None, local_steps=R)
    assert theta[-1] == pytest.approx(fixed_point, abs=1e-10)


def test_implicit_step_minimises_its_objective_and_never_overshoots():
    rng = np.random.default_rng(0)
    y, w, lam, s = rng.normal(size=5), rng.normal(size=5), 1e6, 0.3
    x = moreau.implicit_step(y, w, lam, s)
    np.testing.assert_allclose((x - y) / s + lam * (x - w), 0, atol=1e-7)
    assert (np.abs(x - w) <= np.abs(y - w)).all()


def test_same_numbers_on_numpy_and_torch():
    rng = np.random.default_rng(1)
    x, g, w = (rng.normal(size=(3, 4, 2)) for _ in range(3))
    t = [torch.from_numpy(v) for v in (x, g, w)]
    pairs = [
        (moreau.inner_step(x, g, w, 0.3, 0.2), moreau.inner_step(*t, 0.3, 0.2)),
        (moreau.implicit_step(x, w, 0.3, 0.2), moreau.implicit_step(t[0], t[2], 0.3, 0.2)),
        (moreau.local_step(w, x, 0.21), moreau.local_step(t[2], t[0], 0.21)),
        (moreau.proximal_pull(x, w, 0.3), moreau.proximal_pull(t[0], t[2], 0.3)),
        (moreau.meta_step(w[0], w.mean(0), 0.4), moreau.meta_step(t[2][0], t[2].mean(0), 0.4)),
        (moreau.envelope(g[:, 0, 0], x, w, 0.3, (1, 2)), moreau.envelope(t[1][:, 0, 0], t[0], t[2], 0.3, (1, 2))),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-15)
