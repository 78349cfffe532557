"""The widgets: a control changes the picture, its numbers and its alt text; a static picture is shown."""

import base64
import html
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pmeta_course.show import widgets

CASES = [
    (widgets.lambda_slider, {"lam": 10.0, "agreement": 0.8}),
    (widgets.gradient_field, {"h": 0.2, "arrows": "joint"}),
    (widgets.envelope_explorer, {"function": "absolute value", "lam": 5.0, "theta": -1.0}),
    (widgets.heterogeneity_explorer, {"h": 0.9, "seed": 3}),
    (widgets.step_size_explorer, {"step": 2.4, "inner_steps": 7, "lam": 0.5, "warm": True, "local_steps": 3}),
]


@pytest.mark.parametrize(("build", "values"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_each_control_changes_the_picture(build, values):
    explorer = build()
    assert explorer.controls.keys() == values.keys()
    assert plt.get_fignums() == []  # nothing is left for the notebook to show twice
    for name, value in values.items():
        before = (explorer.png, explorer.image.value)
        explorer.controls[name].value = value
        assert explorer.png != before[0], name
        assert explorer.image.value != before[1], name
        assert base64.b64encode(explorer.png).decode() in explorer.image.value
        assert html.escape(explorer.numbers) in explorer.image.value  # the alt text follows


def test_256_colours_are_enough():
    """Against the figure as matplotlib writes it: ten overlapping bands, a colour map, thin lines."""
    figure, (left, right) = plt.subplots(1, 2)
    for k in range(10):
        left.fill_between([0, 1], [k, 0], [k + 2, 3], color=f"C{k}", alpha=0.2)
        left.plot([0, 1], [k, 0], lw=0.7)
    right.imshow(np.linspace(0, 1, 900).reshape(30, 30))
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=plt.rcParams["savefig.dpi"])
    small = widgets.png(figure)
    drawn, got = (np.asarray(Image.open(f).convert("RGB")).astype(int) for f in (full, io.BytesIO(small)))
    assert np.abs(got - drawn).max() <= 25 and len(small) < 0.6 * len(full.getvalue())


@pytest.mark.parametrize(("build", "values"), CASES, ids=lambda c: getattr(c, "__name__", ""))
def test_a_static_picture_comes_with_the_controls(build, values, monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, **how: shown.append((data, how)))
    explorer = build()
    explorer._ipython_display_()
    data, how = shown[0]
    assert data[widgets.WIDGET_VIEW]["model_id"] == explorer.box.model_id
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert len(base64.b64decode(data["image/png"])) < 100_000
    assert len(how["metadata"]["image/png"]["alt"]) > 20
    # every control is one that a keyboard reaches
    assert all(c.description and "tabbable" in c.trait_names() for c in explorer.controls.values())


def test_the_lambda_slider_tells_the_truth():
    """Full conflict: by symmetry theta = 0, and y solves 10 sigmoid'(y) = lam y / 2."""
    lam = np.array([0.01, 0.3, 5.0])
    theta, y = widgets.two_armed_policies(lam, 0.0)
    p = 1 / (1 + np.exp(-y[0]))
    np.testing.assert_allclose(theta, 0, atol=1e-9)
    np.testing.assert_allclose(10 * p * (1 - p), lam * y[0] / 2, rtol=1e-6)
    np.testing.assert_allclose(y[1], -y[0], atol=1e-9)


def test_the_quadratic_walk_ends_where_the_closed_form_says():
    settings = dict(a=[1, 4], c=[0, 1], lam=2.0, eta=0.25, beta=1.0, step_size=1 / 6, rounds=200)
    for local_steps, fixed in ((1, 2 / 3), (2, 0.6451612903), (5, 0.5921248794)):
        path = widgets.quadratic_pmeta(**settings, inner_steps=60, local_steps=local_steps, warm=True)
        assert path[-1] == pytest.approx(fixed, abs=1e-9)
    cold = widgets.quadratic_pmeta(**settings, inner_steps=2, local_steps=1, warm=False)
    assert abs(cold[-1] - 2 / 3) > 0.01


def test_divergence_is_drawn_not_raised():
    explorer = widgets.step_size_explorer(step=2.5, inner_steps=20, lam=100.0)
    assert "diverges" in explorer.numbers


def test_a_table_holds_every_cell_and_obeys_no_markup(monkeypatch):
    """Words with `<` are shown, not obeyed; a missing cell is empty; the same rows give the same text."""
    rows = [{"name": "a <b>", "value": 1}, {"value": 2}]
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, raw: shown.append(data))
    for given in (rows, pd.DataFrame(rows), (row for row in rows)):
        widgets.show_table(given)
    first, *others = shown
    assert all(other == first for other in others) and first["text/plain"] == "table of 2 rows"
    assert "a &lt;b&gt;" in first["text/html"] and "NaN" not in first["text/html"] and "\n" not in first["text/html"]
    assert re.findall("<td>(.*?)</td>", first["text/html"]) == ["a &lt;b&gt;", "1", "", "2"]
