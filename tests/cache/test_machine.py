"""What is kept and for how long, told the time."""

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience.cache._machine import Entries, Spot
from resilience.cache._settings import CacheSettings
from resilience.errors import ConfigError

TTL, STALE_FOR = 8.0, 3.0


def entries(**settings: Any) -> Entries:
    return Entries(CacheSettings(**{"ttl": TTL, "stale_for": STALE_FOR, **settings}))


def state(kept: Entries, spot: Spot, now: float) -> tuple[Any, bool] | None:
    entry = kept.usable(spot, now)
    return None if entry is None else (entry.value, kept.is_fresh(entry))


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0.0, ("v", True)),
        (7.999, ("v", True)),
        (8.0, ("v", False)),
        (10.999, ("v", False)),
        (11.0, None),
    ],
)
def test_a_result_is_fresh_then_stale_then_forgotten(age: float, expected: object) -> None:
    kept = entries()
    kept.store(("f", 1), "v", 100.0)
    assert state(kept, ("f", 1), 100.0 + age) == expected
    assert len(kept) == (expected is not None)


def test_without_stale_for_a_result_is_never_stale() -> None:
    kept = entries(stale_for=0.0)
    kept.store(("f", 1), "v", 0.0)
    assert state(kept, ("f", 1), 7.999) == ("v", True)
    assert state(kept, ("f", 1), 8.0) is None


def test_a_clock_that_goes_back_makes_nothing_young_again() -> None:
    kept = entries()
    kept.store(("f", 1), "v", 100.0)
    assert state(kept, ("f", 1), 108.0) == ("v", False)
    assert state(kept, ("f", 1), 50.0) == ("v", False)
    kept.store(("f", 2), "w", 50.0)
    assert state(kept, ("f", 2), 115.9) == ("w", True)
    assert state(kept, ("f", 2), 116.0) == ("w", False)


def test_a_result_that_is_asked_for_stays_when_another_must_go() -> None:
    kept = entries(max_entries=2)
    kept.store(("f", 1), "a", 0.0)
    kept.store(("f", 2), "b", 0.0)
    kept.usable(("f", 1), 0.0)
    kept.store(("f", 3), "c", 0.0)
    assert state(kept, ("f", 1), 0.0) == ("a", True)
    assert state(kept, ("f", 2), 0.0) is None


def test_a_key_is_forgotten_for_every_function() -> None:
    kept = entries()
    for function in "fgh":
        kept.store((function, 1), function, 0.0)
    kept.store(("f", 2), "other", 0.0)
    kept.drop(("h", 1))
    kept.drop_key(1)
    assert len(kept) == 1
    assert state(kept, ("f", 2), 0.0) == ("other", True)
    kept.drop(("f", 2))
    assert not kept._functions


def test_new_settings_hold_for_what_is_kept() -> None:
    kept = entries()
    kept.store(("f", 1), "v", 0.0)
    kept.configure(replace(kept.settings, ttl=2.0, stale_for=1.0))
    assert state(kept, ("f", 1), 2.0) == ("v", False)
    assert state(kept, ("f", 1), 3.0) is None


def test_fewer_entries_make_the_oldest_go_at_once() -> None:
    kept = entries()
    for key in range(5):
        kept.store(("f", key), key, 0.0)
    kept.configure(replace(kept.settings, max_entries=2))
    assert [key for key in range(5) if kept.usable(("f", key), 0.0)] == [3, 4]


def test_a_new_key_function_empties_the_cache() -> None:
    kept = entries()
    kept.store(("f", 1), "v", 0.0)
    kept.configure(replace(kept.settings, key=lambda x: x))
    assert len(kept) == 0
    assert not kept._functions


def test_it_is_idle_when_empty_or_when_everything_is_over() -> None:
    kept = entries()
    assert kept.is_idle(0.0)
    kept.store(("f", 1), "v", 1.0)
    kept.store(("f", 2), "w", 2.0)
    assert not kept.is_idle(12.999)
    assert kept.is_idle(13.0)
    assert kept.is_idle(1.0), "the clock has gone back"
    kept.clear()
    assert kept.is_idle(2.0)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        *[({"ttl": wrong}, "ttl") for wrong in (0.0, -1.0, math.nan, math.inf, True, None, "1")],
        *[({"stale_for": wrong}, "stale_for") for wrong in (-1.0, math.nan, math.inf, True, None, "1")],
        *[({"max_entries": wrong}, "max_entries") for wrong in (0, -1, 1.5, True, None)],
        ({"key": "sku"}, "key"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        entries(**settings)
    assert [problem.setting for problem in caught.value.problems] == [setting]


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        CacheSettings(ttl=0, stale_for=-1, key=3, max_entries=0)  # type: ignore[arg-type]  # wrong on purpose
    assert [problem.setting for problem in caught.value.problems] == [
        "ttl",
        "stale_for",
        "key",
        "max_entries",
    ]


class CacheRules(RuleBasedStateMachine):
    """Any history of storing, asking and waiting keeps what a list of (spot, value, instant) keeps."""

    spots = st.tuples(st.sampled_from("fg"), st.integers(1, 3))

    @initialize(max_entries=st.integers(1, 4), stale_for=st.sampled_from([0.0, STALE_FOR]))
    def begin(self, max_entries: int, stale_for: float) -> None:
        self.settings = CacheSettings(ttl=TTL, stale_for=stale_for, max_entries=max_entries)
        self.kept = Entries(self.settings)
        self.model: list[tuple[Spot, int, float]] = []  # least recently used first
        self.now = 0.0
        self.latest = -math.inf
        self.count = 0

    def ends(self, since: float) -> float:
        return since + self.settings.ttl + self.settings.stale_for

    @rule(seconds=st.sampled_from([0.5, STALE_FOR, TTL - 0.5, TTL, -TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(spot=spots)
    def store(self, spot: Spot) -> None:
        self.latest = max(self.latest, self.now)
        self.count += 1
        self.kept.store(spot, self.count, self.now)
        self.model = [row for row in self.model if row[0] != spot]
        self.model.append((spot, self.count, self.latest))
        self.model = self.model[-self.settings.max_entries :]

    @rule(spot=spots)
    def ask(self, spot: Spot) -> None:
        self.latest = max(self.latest, self.now)
        entry = self.kept.usable(spot, self.now)
        row = next((row for row in self.model if row[0] == spot), None)
        if row is not None:
            self.model.remove(row)
            if self.latest < self.ends(row[2]):
                self.model.append(row)
            else:
                row = None
        assert (entry is None) == (row is None)
        if entry is not None and row is not None:
            assert (entry.value, entry.since) == row[1:]
            assert self.kept.is_fresh(entry) == (self.latest < row[2] + self.settings.ttl)

    @rule(spot=spots)
    def drop(self, spot: Spot) -> None:
        self.kept.drop(spot)
        self.model = [row for row in self.model if row[0] != spot]

    @rule(key=st.integers(1, 3))
    def drop_key(self, key: Hashable) -> None:
        self.kept.drop_key(key)
        self.model = [row for row in self.model if row[0][1] != key]

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.model.clear()

    @rule(max_entries=st.integers(1, 4), ttl=st.sampled_from([TTL, TTL / 2]))
    def configure(self, max_entries: int, ttl: float) -> None:
        self.settings = replace(self.settings, max_entries=max_entries, ttl=ttl)
        self.kept.configure(self.settings)
        self.model = self.model[-max_entries:]

    @rule()
    def idle(self) -> None:
        self.latest = max(self.latest, self.now)
        if self.kept.is_idle(self.now):
            assert all(self.latest >= self.ends(row[2]) for row in self.model)
        else:
            assert self.model

    @invariant()
    def the_same_is_kept(self) -> None:
        assert list(self.kept._entries) == [row[0] for row in self.model]
        assert len(self.kept) <= self.settings.max_entries
        functions = {function for (function, _), _, _ in self.model}
        assert set(self.kept._functions) == functions


TestCacheRules = CacheRules.TestCase
