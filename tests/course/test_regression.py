"""What `record` accepts and keeps, and when two values are the same; no kernel needed."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pmeta_course import record
from pmeta_course.regression import compare as regression
from pmeta_course.regression.compare import compare, compare_all, derive_band, encode, read_records

from pmeta_lib.files import UserError


def entry(value, kind="exact", rtol=1e-6, atol=0.0, band=None):
    found = encode(value) | {"kind": kind, "rtol": rtol, "atol": atol}
    return found | ({"band": band} if band else {})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (3, 3), (True, True), (np.float32(0.5), 0.5), (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]), ("holds", "holds"), (np.array([1.0, np.nan]), [1.0, "nan"]),
        (-math.inf, "-inf"), (torch.ones((), requires_grad=True), 1.0), ([], []),
    ],
)  # fmt: skip
def test_encode(value, kept):
    found = encode(value)
    assert found["value"] == kept
    json.loads(json.dumps(found, allow_nan=False))


def test_encode_tables():
    table = pd.DataFrame({"x": [1.5, 2], "who": ["a", "b"]}, index=["i", "j"])
    assert encode(table) == {"type": "table", "index": ["i", "j"], "columns": {"x": [1.5, 2], "who": ["a", "b"]}}
    assert encode(pd.Series([1, 2], name="s"))["columns"] == {"s": [1, 2]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: record("", 1), "must be a text that is not empty"),
        (lambda: record("a", 1, kind="random"), "unknown kind 'random'"),
        (lambda: record("a", 1, rtol=-1), "not negative"),
        (lambda: record("a", {"b": 1}), "cannot keep a dict"),
        (lambda: record("a", [[1], [1, 2]]), "cannot keep a list"),
        (lambda: record("a", 1j), "cannot keep a complex"),
        (lambda: record("a", None), "cannot keep a NoneType"),
        (lambda: record("a", np.zeros(10_001)), "record a summary"),
        (lambda: record("a", "x" * 2000), "2000 characters"),
    ],
)
def test_record_refuses_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_record_is_quiet_without_the_runner_and_writes_with_it(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(regression.RECORD_FILE, raising=False)
    assert record("a", 1.0) is None and capsys.readouterr() == ("", "")
    path = tmp_path / "values"
    monkeypatch.setenv(regression.RECORD_FILE, str(path))
    record("a", 1 / 3, rtol=1e-3)
    record("b", [1, 2], kind="stochastic")
    record("a", 2.0)
    values, twice = read_records(path)
    assert twice == ["a"] and values["b"]["kind"] == "stochastic" and values["a"]["value"] == 2.0
    path.write_text(path.read_text() + '{"name": "half')  # killed in the middle of a line
    assert read_records(path)[0] == values


number = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(number, min_size=1, max_size=5), st.floats(0, 1e-2), st.floats(0, 1e-2), st.floats(-3, 3))
def test_the_tolerance_decides(old, rtol, atol, steps):
    old = np.array(old)
    tolerance = atol + rtol * np.abs(old)
    row = compare("v", entry(old + steps * tolerance, rtol=rtol, atol=atol), entry(old, rtol=rtol, atol=atol))
    if abs(steps) < 0.999:
        # a step lost or made by rounding may be more than the whole tolerance where that is tiny
        assert row.ok or (tolerance[tolerance > 0] < 1e-9 * np.abs(old).max()).any()
    elif abs(steps) > 1.001 and (tolerance > 1e-6 * (1 + np.abs(old))).any():
        assert row.status == "differs" and row.away > 1


@pytest.mark.parametrize(
    ("new", "old", "status"),
    [
        (None, 1.0, "missing"), (1.0, None, "new"), (math.nan, 1.0, "not finite"), (math.inf, None, "not finite"),
        ([1, 2], [1, 2, 3], "shape"), ([1.0], 1.0, "shape"), ("a", "b", "differs"), (-1.0, 1.0, "differs"),
        (1.001, 1.0, "differs"), (1 + 1e-9, 1.0, "same"), ([[1, 2]], [[1], [2]], "shape"), (1e-9, 0.0, "differs"),
        (pd.DataFrame({"x": [1.0]}), pd.DataFrame({"y": [1.0]}), "shape"),
        (pd.DataFrame({"x": [1.0]}), pd.DataFrame({"x": [1.01]}), "differs"),
        (pd.DataFrame({"x": ["p"]}), pd.DataFrame({"x": ["q"]}), "differs"),
        (pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [1, 2]}), "same"),
        (True, 1, "same"), ([], [], "same"), ("3", "3.0", "differs"), ("nan", "nan", "same"),
        (pd.DataFrame({"x": ["1e0", "2"]}), pd.DataFrame({"x": ["1", "2"]}), "differs"),
        (pd.DataFrame({"x": [1.0, math.nan]}), pd.DataFrame({"x": [1.0, math.nan]}), "not finite"),
    ],
)  # fmt: skip
def test_compare(new, old, status):
    row = compare("v", None if new is None else entry(new), None if old is None else entry(old))
    assert row.status == status and row.ok == (status == "same")


def test_compare_names_the_worst_place():
    row = compare("v", entry(np.array([[1, 2.0], [3, 5]])), entry(np.array([[1, 2.0], [3, 4]])))
    assert row.away == pytest.approx(1 / 4e-6) and "[1, 1]: 4 -> 5" in row.detail


def test_a_changed_tolerance_is_a_change():
    assert compare("v", entry(1.0, rtol=1.0), entry(2.0)).status == "declaration"
    assert compare("v", entry(1.0, kind="stochastic"), entry(1.0)).status == "declaration"


def test_parameters_are_part_of_the_expectation():
    expected = {"parameters": {"SEED": 0}, "values": {"v": entry(1.0)}}
    rows = compare_all({"v": entry(1.0)}, expected, {"SEED": 1})
    assert [(r.name, r.ok) for r in rows] == [("parameter SEED", False), ("v", True)]


def test_band_of_an_array_by_hand():
    draws = np.array([[0.0, 10.0], [1.0, 10.0], [2.0, 10.0], [3.0, 10.0]])
    band = derive_band([entry(d, "stochastic", rtol=0.1) for d in draws], [0, 1, 2, 3])
    # t quantile 0.9995 with 3 degrees of freedom is 12.924 (any table); sd of 0..3 is sqrt(5/3)
    assert band["half_width"][""] == pytest.approx([12.924 * math.sqrt(5 / 3 * 1.25) + 0.15, 1.0], rel=1e-4)
    old = entry(draws[0], "stochastic", rtol=0.1, band=band)
    assert compare("v", entry([1.5, 10.9], "stochastic", rtol=0.1), old).status == "moved"
    assert compare("v", entry([1.5, 11.1], "stochastic", rtol=0.1), old).status == "differs"
    assert compare("v", entry(draws[0], "stochastic", rtol=0.1), old).status == "same"


def test_the_band_holds_as_often_as_it_promises():
    """10,000 simulated blessings of five seeds: a sixth seed leaves the band in about one of a thousand."""
    rng = np.random.default_rng(3)
    entries = [entry(rng.normal(7, 2, 10_000), "stochastic", rtol=0.0) for _ in range(6)]
    band = derive_band(entries[:5], range(5))
    gap = np.abs(np.array(entries[5]["value"]) - band["mean"][""])
    outside = (gap > np.array(band["half_width"][""])).sum()
    assert 2 <= outside <= 24  # mean 10, about ± 4.5 standard deviations


def test_a_shape_that_changes_with_the_seed_has_no_band():
    with pytest.raises(UserError, match="record a fixed shape"):
        derive_band([entry([1.0], "stochastic"), entry([1.0, 2.0], "stochastic")], [0, 1])


def test_expectation_files_are_strict_json_and_keep_what_did_not_change(tmp_path):
    old = {"values": {"a": entry(1.0), "b": entry([1.0, 2.0])}, "history": [{"reason": "x"}]}
    new = {"a": entry(1.0 + 1e-9), "b": entry([1.0, 3.0])}
    rows = compare_all(new, old, {})
    found = regression.blessed(old, rows, new, {}, {"seconds": 1.0}, "because")
    assert found["values"] == {"a": old["values"]["a"], "b": new["b"]}
    assert found["history"][1] | {"date": ""} == {"date": "", "reason": "because", "changed": ["b"]}
    path = tmp_path / "quick" / "n.json"
    regression.save_expected(path, found)
    assert regression.load_expected(path) == found and regression.load_expected(tmp_path / "none") == {}
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        regression.load_expected(path)
