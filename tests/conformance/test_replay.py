"""The replay itself: what counts as equal, and that nothing unknown passes in silence."""

import json
from pathlib import Path

import pytest

from .adapters import ADAPTERS
from .exceptions import Exemption, Kind
from .replay import Unknown, differences, load, replay


class Counter:
    def __init__(self, start):
        self.count = start

    def add(self, n):
        self.count += n
        return {"count": self.count}

    def _reset(self):
        return {}


class Plain:
    def step(self, x):
        return {"x": x}


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    monkeypatch.setitem(ADAPTERS, "counter", Counter)
    monkeypatch.setitem(ADAPTERS, "plain", Plain)


def vector(*steps, algorithm="counter", **params):
    entries = [{"input": given, "expect": expect} for given, expect in steps]
    return {"id": "counter/one", "algorithm": algorithm, "source": "", "params": params, "steps": entries}


def add(n):
    return {"op": "add", "n": n}


# --- comparing ---


@pytest.mark.parametrize(
    "expect, actual",
    [
        ({}, {"x": 1}),
        ({"x": 1}, {"x": 1, "y": 2}),
        ({"x": 1}, {"x": 1.0}),
        ({"x": 100}, {"x": 100.00009}),
        ({"x": 0.0}, {"x": 9e-7}),
        ({"x": 5000, "tol": 1}, {"x": 5001}),
        ({"x_ge": 0.7, "x_le": 0.8}, {"x": 0.8}),
        ({"x_ge": 0.7, "x_le": 0.8}, {"x": 0.7}),
        ({"x_gt": 0}, {"x": 1e-9}),
        ({"wait_gt": 0, "wait_le": 250}, {"wait_ms": 250}),
        ({"x": None}, {"x": None}),
        ({"x": True}, {"x": True}),
        ({"x": [["burst", 100, 60]]}, {"x": [["burst", 100, 60]]}),
        ({"x": {"a": 55}}, {"x": {"a": 55.0}}),
        ({"x": 1, "places": 7, "note": "a remark"}, {"x": 1}),
    ],
)
def test_these_are_the_same(expect, actual):
    assert differences(expect, actual) == []


@pytest.mark.parametrize(
    "expect, actual",
    [
        ({"x": 1}, {"x": 2}),
        ({"x": 100}, {"x": 100.00011}),
        ({"x": 0.0}, {"x": 1.1e-6}),
        ({"x": 5000, "tol": 1}, {"x": 5001.5}),
        ({"x": 1, "tol": 1e-9}, {"x": 1 + 1e-8}),
        ({"x_ge": 0.7}, {"x": 0.69}),
        ({"x_le": 0.8}, {"x": 0.81}),
        ({"x_gt": 0}, {"x": 0}),
        ({"x": 1}, {"x": True}),
        ({"x": True}, {"x": 1}),
        ({"x": None}, {"x": 0}),
        ({"x": 0}, {"x": None}),
        ({"x": False}, {"x": None}),
        ({"x": 1}, {"x": float("nan")}),
        ({"x": "OVER"}, {"x": "UNDER"}),
        ({"x": [1]}, {"x": [1, 2]}),
    ],
)
def test_these_are_not_the_same(expect, actual):
    assert len(differences(expect, actual)) == 1


def test_a_key_that_looks_like_a_bound_is_a_value_if_it_is_reported():
    assert differences({"x_ge": 3}, {"x_ge": 3, "x": 1}) == []


# --- replaying ---


def test_steps_apply_in_order_to_one_object():
    assert replay(vector((add(1), {"count": 3}), (add(4), {"count": 7}), start=2)) == []


def test_every_vector_has_an_object_of_its_own():
    for _ in range(2):
        assert replay(vector((add(1), {"count": 3}), start=2)) == []


def test_a_step_without_op_is_the_only_operation():
    assert replay(vector(({"x": 5}, {"x": 5}), algorithm="plain")) == []


def test_every_wrong_step_is_named():
    wrong = replay(vector((add(1), {"count": 0}), (add(1), {"count": 2}), (add(1), {"count": 0}), start=0))
    assert [text.split(",")[0] for text in wrong] == ["step 1", "step 3"]
    assert "count: want 0, got 3" in wrong[1]


@pytest.mark.parametrize(
    "asked",
    [
        vector(algorithm="nobody knows"),
        vector(start=0, colour="red"),
        vector(),
        vector(({"op": "subtract", "n": 1}, {}), start=0),
        vector(({"op": "_reset"}, {}), start=0),
        vector(({"op": "__init__", "start": 0}, {}), start=0),
        vector(({"n": 1}, {}), start=0),
        vector(({"op": "add", "n": 1, "m": 1}, {}), start=0),
        vector((add(1), {"total": 1}), start=0),
        vector((add(1), {"total_ge": 1}), start=0),
    ],
)
def test_what_nobody_knows_fails(asked):
    with pytest.raises(Unknown):
        replay(asked)


def test_a_step_that_differs_must_do_what_the_table_says():
    table = [Exemption("counter/one#1", Kind.DIFFERS, "a reason", {"count": 1})]
    assert replay(vector((add(1), {"count": 9}), start=0), table) == []
    assert len(replay(vector((add(2), {"count": 9}), start=0), table)) == 1


def test_a_key_that_differs_is_reported_but_not_compared():
    table = [Exemption("counter:count", Kind.DIFFERS, "a reason")]
    assert replay(vector((add(1), {"count": 9}), start=0), table) == []
    with pytest.raises(Unknown):
        replay(
            vector((add(1), {"total": 9}), start=0), [Exemption("counter:total", Kind.DIFFERS, "a reason")]
        )


def test_an_exception_that_is_no_longer_needed_fails():
    table = [Exemption("counter/one#1", Kind.DIFFERS, "a reason", {"count": 1})]
    assert "it does not" in replay(vector((add(1), {"count": 1}), start=0), table)[0]


# --- reading ---


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        [1],
        [{"id": "a/b"}],
        [vector() | {"colour": "red"}],
        [vector() | {"steps": [{"input": {}}]}],
        [vector(), vector()],
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, content):
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError):
        load(file)


def test_a_file_of_this_format_is_read(tmp_path: Path):
    file = tmp_path / "vectors.json"
    file.write_text(json.dumps([vector((add(1), {"count": 1}), start=0) | {"note": "", "derived": True}]))
    assert [replay(entry) for entry in load(file)] == [[]]
