"""The rules of a key once more, as naively as can be, and random schedules that compare a store with them."""

import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience.idempotency._machine import (
    Claim,
    Claimed,
    InFlight,
    Mismatch,
    NotReplayable,
    Replay,
)
from resilience.idempotency._owner import new_owner

# Seconds. Between them and the steps of time there are fifty: no machine is so busy as to take them for a schedule.
LEASE, RETENTION = 1_050.0, 10_050.0
KEYS = (b"a" * 32, b"b" * 32)
PRINTS = (b"x", b"y")
VALUES = (b"one", b"two", b"", None)


class Model:
    """A list of what happened, looked through from the beginning for every question."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rows: dict[bytes, dict[str, Any]] = {}
        self.epochs: dict[bytes, int] = {}

    def row(self, key: bytes) -> dict[str, Any] | None:
        row = self.rows.get(key)
        return None if row is None or row["expires"] <= self.now else row

    def claim(self, key: bytes, ask: Claim) -> Any:
        row, taken = self.row(key), False
        if row is not None and row["state"] != "released":
            if row["print"] != ask.fingerprint:
                return Mismatch()
            if row["state"] == "done":
                return NotReplayable() if row["value"] is None else Replay(row["value"])
            if row["owner"] == ask.owner:
                return Claimed(row["epoch"])
            if row["lease"] > self.now:
                return InFlight(row["lease"] - self.now)
            if not ask.takeover:
                return InFlight(None, unknown_outcome=True)
            taken = True
        self.epochs[key] = self.epochs.get(key, 0) + 1
        self.rows[key] = {
            "print": ask.fingerprint,
            "state": "pending",
            "owner": ask.owner,
            "epoch": self.epochs[key],
            "lease": self.now + ask.lease,
            "expires": self.now + max(ask.lease, ask.retention),
            "value": None,
        }
        return Claimed(self.epochs[key], taken)

    def mine(self, key: bytes, owner: bytes, *states: str) -> dict[str, Any] | None:
        row = self.row(key)
        return row if row is not None and row["owner"] == owner and row["state"] in states else None

    def renew(self, key: bytes, owner: bytes, lease: float) -> bool:
        row = self.mine(key, owner, "pending")
        if row is not None:
            row["lease"] = self.now + lease
            row["expires"] = max(row["expires"], row["lease"])
        return row is not None

    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: float) -> bool:
        row = self.mine(key, owner, "pending", "done")
        if row is not None and row["state"] == "pending":
            row.update(state="done", value=value, expires=self.now + retention)
        return row is not None

    def release(self, key: bytes, owner: bytes) -> bool:
        row = self.mine(key, owner, "pending", "released")
        if row is not None:
            row["state"] = "released"
        return row is not None

    def expire(self, key: bytes) -> bool:
        row = self.row(key)
        if row is None or row["state"] == "released":
            return False
        row.update(state="released", owner=None)
        return True


def same(answer: Any, expected: Any) -> bool:
    """Whether two answers are the same, but for what little time passes on a real clock."""
    if isinstance(answer, InFlight) and isinstance(expected, InFlight) and expected.retry_after is not None:
        return answer.retry_after is not None and abs(answer.retry_after - expected.retry_after) < 40.0
    return type(answer) is type(expected) and answer == expected


class Schedule(RuleBasedStateMachine):
    """
    Workers that claim, renew, complete, release, crash and come too late; an operator; time.

    *fresh* makes an empty store; *shift* lets time pass in it. A store may clear away what
    expired at any time.
    """

    fresh: Any
    shift: Any
    dts = st.sampled_from([100.0, 900.0, 1_000.0, 1_100.0, 9_000.0, 10_100.0])

    @initialize()
    def begin(self) -> None:
        self.store = type(self).fresh()
        self.model = Model()
        self.owners: list[tuple[bytes, bytes]] = [(KEYS[0], new_owner())]
        self.seen: dict[bytes, int] = {}

    def pick(self, number: int) -> tuple[bytes, bytes]:
        return self.owners[number % len(self.owners)]

    @rule(key=st.sampled_from(KEYS), fp=st.sampled_from(PRINTS), takeover=st.booleans())
    def claim(self, key: bytes, fp: bytes, takeover: bool) -> None:
        ask = Claim(new_owner(), fp, LEASE, RETENTION, takeover)
        self.compare_claim(key, ask)

    @rule(number=st.integers(0, 50), fp=st.sampled_from(PRINTS))
    def claim_again(self, number: int, fp: bytes) -> None:
        key, owner = self.pick(number)
        self.compare_claim(key, Claim(owner, fp, LEASE, RETENTION, takeover=False))

    def compare_claim(self, key: bytes, ask: Claim) -> None:
        before = self.model.row(key)
        repeated = before is not None and before["owner"] == ask.owner and before["state"] == "pending"
        expected = self.model.claim(key, ask)
        answer = self.store.claim(key, ask)
        if before is None and answer == Claimed(1):  # what expired was cleared away, and its epoch with it
            self.model.rows[key]["epoch"] = self.model.epochs[key] = 1
            self.seen.pop(key, None)
        else:
            assert same(answer, expected), (answer, expected)
        if isinstance(answer, Claimed):
            assert repeated or answer.epoch > self.seen.get(key, 0)
            self.seen[key] = answer.epoch
            self.owners.append((key, ask.owner))
        if isinstance(answer, InFlight) and answer.retry_after is not None:
            assert 0 < answer.retry_after <= LEASE

    # Crashed workers just say no more; those who are late speak up whenever they are drawn.

    @rule(number=st.integers(0, 50))
    def renew(self, number: int) -> None:
        key, owner = self.pick(number)
        assert self.store.renew(key, owner, LEASE) == self.model.renew(key, owner, LEASE)

    @rule(number=st.integers(0, 50), value=st.sampled_from(VALUES))
    def complete(self, number: int, value: bytes | None) -> None:
        key, owner = self.pick(number)
        expected = self.model.complete(key, owner, value, RETENTION)
        assert self.store.complete(key, owner, value, RETENTION) == expected

    @rule(number=st.integers(0, 50))
    def release(self, number: int) -> None:
        key, owner = self.pick(number)
        assert self.store.release(key, owner) == self.model.release(key, owner)

    @rule(key=st.sampled_from(KEYS))
    def operate(self, key: bytes) -> None:
        assert self.store.expire(key) == self.model.expire(key)

    @rule(dt=st.data())
    def advance(self, dt: st.DataObject) -> None:
        seconds = dt.draw(type(self).dts)
        self.model.now += seconds
        type(self).shift(self.store, seconds)

    @rule()
    def purge(self) -> None:
        self.store.purge()

    @invariant()
    def nobody_else_could_complete(self) -> None:
        if not hasattr(self, "store"):
            return
        for key in KEYS:
            record, row = self.store.inspect(key), self.model.row(key)
            assert (record is None) == (row is None)
            if record is not None and row is not None:
                state = {"pending": 0, "released": 3}.get(row["state"], 1 if row["value"] is not None else 2)
                assert (int(record.state), record.epoch) == (state, row["epoch"])
                assert row["owner"] is None or record.owner == row["owner"]
                assert record.fingerprint == row["print"]
                assert record.state == 3 or record.value == row["value"]

    def teardown(self) -> None:
        close = getattr(getattr(self, "store", None), "close", None)
        if close is not None:
            close()


def settings_for(examples: int, thorough: int) -> settings:
    """How hard to try: *thorough* times under the profile of that name."""
    is_thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    return settings(max_examples=thorough if is_thorough else examples, deadline=None, stateful_step_count=40)
