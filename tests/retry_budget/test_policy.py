"""The budget that everybody shares: its ways in, its lock, its clock and its life across forks."""

import contextlib
import gc
import inspect
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from resilience import _clock
from resilience._runtime import fork
from resilience.errors import ConfigError
from resilience.outcome import Verdict
from resilience.retry_budget import (
    BudgetSettings,
    GrpcSettings,
    InflightSettings,
    RatioSettings,
    RefundSettings,
    RetryBudget,
)
from resilience.typing import Budget

THREADS = 8
MAKERS: list[tuple[Callable[..., RetryBudget], type[BudgetSettings]]] = [
    (RetryBudget.ratio, RatioSettings),
    (RetryBudget.refund, RefundSettings),
    (RetryBudget.grpc, GrpcSettings),
    (RetryBudget.inflight, InflightSettings),
]
each_family = pytest.mark.parametrize(("make", "settings"), MAKERS, ids=lambda each: each.__name__)


class Hand:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(_clock, "monotonic", hand)
    return hand


@contextlib.contextmanager
def switching_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def hammer(work: Callable[[], int]) -> int:
    """Do *work* in eight threads at once; return the sum of what they return."""
    results: list[int] = []
    barrier = threading.Barrier(THREADS)

    def run() -> None:
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == THREADS
    return sum(results)


# Making one.


@each_family
def test_a_maker_takes_what_its_settings_take(make: Callable[..., RetryBudget], settings: type) -> None:
    parameters = dict(inspect.signature(make).parameters)
    name = parameters.pop("name")
    defaults = {field.name: field.default for field in settings.__dataclass_fields__.values()}
    assert {key: parameter.default for key, parameter in parameters.items()} == defaults
    assert (name.default, name.kind) == (None, inspect.Parameter.KEYWORD_ONLY)
    assert make().settings == settings()
    assert make(name="stock").name == "stock"


@pytest.mark.parametrize(
    ("budget", "settings"),
    [
        (RetryBudget.ratio(0.3, min_per_second=2.0, ttl=5.0, refund=False, cost=2, timeout_cost=3, throttle_cost=4),
         RatioSettings(ratio=0.3, min_per_second=2.0, ttl=5.0, refund=False, cost=2, timeout_cost=3, throttle_cost=4)),
        (RetryBudget.refund(99, initial=9, reward=2.0, refill_per_second=3.0, cost=4, timeout_cost=5, throttle_cost=6),
         RefundSettings(capacity=99, initial=9, reward=2.0, refill_per_second=3.0, cost=4, timeout_cost=5,
                        throttle_cost=6)),
        (RetryBudget.grpc(20, 0.2, refill_per_second=1.0),
         GrpcSettings(max_tokens=20, token_ratio=0.2, refill_per_second=1.0)),
        (RetryBudget.inflight(0.3, min_concurrency=1), InflightSettings(ratio=0.3, min_concurrency=1)),
        (RetryBudget(), RatioSettings()),
    ],
)  # fmt: skip
def test_a_maker_passes_every_setting_on(budget: RetryBudget, settings: BudgetSettings) -> None:
    assert budget.settings == settings
    assert RetryBudget(settings).settings is settings


def test_a_maker_of_a_subclass_makes_the_subclass() -> None:
    class Mine(RetryBudget):
        pass

    assert {type(make()) for make in (Mine.ratio, Mine.refund, Mine.grpc, Mine.inflight)} == {Mine}


@pytest.mark.parametrize(("settings", "name"), [(0.1, ""), (RatioSettings, 3), ("ratio", "  ")])
def test_what_is_no_budget_is_refused(settings: object, name: object) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryBudget(settings, name=name)
    assert [problem.setting for problem in caught.value.problems] == ["name", "settings"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryBudget.ratio(-1),
        lambda: RetryBudget.refund(0),
        lambda: RetryBudget.grpc(0),
        lambda: RetryBudget.inflight(0),
    ],
)
def test_a_wrong_setting_is_refused(make: Callable[[], RetryBudget]) -> None:
    with pytest.raises(ConfigError, match="RetryBudget"):
        make()


@each_family
def test_every_family_is_a_budget(make: Callable[..., RetryBudget], settings: type) -> None:
    assert isinstance(make(), Budget)


def test_a_budget_shows_its_name_and_settings() -> None:
    assert repr(RetryBudget.inflight(name="stock")) == (
        "RetryBudget(InflightSettings(ratio=0.2, min_concurrency=3), name='stock')"
    )


# Using one.


def test_two_retries_that_helped_give_both_charges_back(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0, timeout_cost=2)
    for _ in range(4):
        budget.deposit()
    charges = budget.try_withdraw() + budget.try_withdraw(Verdict.TIMED_OUT)
    assert (charges, budget.level, budget.limit) == (2, 1, 4)
    budget.finish(good=True, charges=charges)
    assert budget.level == 3, "a timeout's surcharge is kept"
    assert (budget.granted, budget.denied, budget.refunded) == (2, 0, 2)


def test_what_a_call_gives_back_the_next_one_takes_until_others_want_it(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0)
    budget.deposit()
    for _ in range(5):  # one token, five times
        assert not budget.finish(good=True, charges=budget.try_withdraw())
    assert (budget.granted, budget.denied, budget.refunded, budget.level) == (5, 0, 5, 1)
    assert budget.try_withdraw()
    assert not budget.try_withdraw()
    assert (budget.granted, budget.denied, budget.refunded, budget.level) == (6, 1, 5, 0)


def test_what_is_passed_on_pays_for_no_timeout_that_costs_more(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0, timeout_cost=2)
    budget.deposit()
    budget.finish(good=True, charges=budget.try_withdraw())
    assert not budget.try_withdraw(Verdict.TIMED_OUT)
    assert budget.try_withdraw()


def test_what_was_never_taken_is_not_passed_on(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0)
    budget.deposit()
    assert budget.try_withdraw()
    budget.finish(good=True, charges=1000)
    assert [budget.try_withdraw() for _ in range(3)] == [1, 0, 0]


def test_what_is_passed_on_ends_with_the_time_of_its_deposit(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0, ttl=10.0)
    budget.deposit()
    for _ in range(9):
        clock.now += 1.0
        budget.finish(good=True, charges=budget.try_withdraw())
    assert budget.granted == 9
    clock.now += 11.0
    assert not budget.try_withdraw()


def test_a_call_that_failed_gets_nothing_back(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0)
    budget.deposit()
    budget.finish(good=False, charges=budget.try_withdraw())
    assert not budget.try_withdraw()
    assert (budget.granted, budget.denied, budget.refunded) == (1, 1, 0)


def test_charges_can_be_given_back_by_hand(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0)
    budget.calls += 3
    budget.refund(budget.try_withdraw())
    assert budget.level == 3
    assert budget.try_withdraw()
    budget.refund()
    assert budget.level == 3


def test_a_statement_on_the_counters_is_all_that_the_hot_path_needs(clock: Hand) -> None:
    counted, called = (
        RetryBudget.inflight(0.5, min_concurrency=0),
        RetryBudget.inflight(0.5, min_concurrency=0),
    )
    for _ in range(10):
        counted.calls += 1
        called.deposit()
    counted.good += 4
    for _ in range(4):
        called.finish(good=True)
    assert counted.limit == called.limit == 4


@pytest.mark.parametrize(
    ("make", "reads"),
    [
        (RetryBudget.ratio, {"calls"}),
        (RetryBudget.refund, {"good"}),
        (RetryBudget.grpc, {"good"}),
        (RetryBudget.inflight, {"calls", "good"}),
    ],
)
def test_a_budget_says_which_counters_it_reads(
    clock: Hand, make: Callable[..., RetryBudget], reads: set[str]
) -> None:
    assert make().reads == reads
    for counter in ("calls", "good"):
        budget, untouched = make(), make()
        for each in (budget, untouched):
            each.fail(Verdict.BAD)
            each.try_withdraw()
            each.calls = 100  # so that calls in flight have something to end
            assert each.level is not None
        setattr(budget, counter, getattr(budget, counter) + 50)
        assert ((budget.limit, budget.level) != (untouched.limit, untouched.level)) == (counter in reads)


def test_grpc_hears_of_failures_and_successes(clock: Hand) -> None:
    budget = RetryBudget.grpc(4, 1.0)
    budget.fail(Verdict.BAD)
    budget.fail(Verdict.BAD)
    assert not budget.try_withdraw(Verdict.IGNORED)
    budget.finish(good=True)
    assert budget.try_withdraw(Verdict.IGNORED)
    budget.fail(Verdict.BAD)
    budget.finish(good=True, charges=1)
    assert budget.level == 0
    assert budget.try_withdraw(Verdict.IGNORED)


def test_a_released_attempt_makes_room_for_another(clock: Hand) -> None:
    budget = RetryBudget.inflight(0.2, min_concurrency=1)
    budget.deposit()
    assert budget.try_withdraw()
    assert not budget.try_withdraw()
    budget.release()
    assert budget.try_withdraw()


def test_a_call_that_ends_is_in_flight_no_more(clock: Hand) -> None:
    budget = RetryBudget.inflight(1.0, min_concurrency=0)
    for _ in range(3):
        budget.deposit()
    assert budget.limit == 4
    budget.finish(good=True)
    budget.finish(good=True, charges=1)
    budget.finish(good=False)
    assert budget.limit == 1


def test_the_clock_is_looked_up_and_not_bound(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.1)
    budget.deposit()
    assert budget.level == 3
    clock.now += 10.0
    assert budget.level == 2


def test_a_budget_made_under_another_clock_follows_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = RetryBudget.ratio(0.0, min_per_second=0.1)
    assert budget.try_withdraw()
    assert budget.try_withdraw()
    assert not budget.try_withdraw()
    later = _clock.monotonic() + 20.0
    monkeypatch.setattr(_clock, "monotonic", lambda: later)
    assert budget.level == 2


# Changing one.


def test_new_settings_keep_the_tokens(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.0)
    budget.deposit()
    budget.reconfigure(ratio=0.5)
    budget.deposit()
    budget.deposit()
    assert budget.level == 2
    assert budget.settings == RatioSettings(ratio=0.5, min_per_second=0.0)


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"ratios": 0.5, "speed": 1}, ["ratios", "speed"]), ({"ratio": -1, "ttl": 0}, ["ratio", "ttl"])],
)
def test_wrong_settings_change_nothing(clock: Hand, changes: dict[str, object], names: list[str]) -> None:
    budget = RetryBudget.ratio(1.0)
    with pytest.raises(ConfigError) as caught:
        budget.reconfigure(**changes)
    assert [problem.setting for problem in caught.value.problems] == names
    budget.deposit()
    assert (budget.settings, budget.level) == (RatioSettings(ratio=1.0), 3)


# Threads.


def test_threads_never_take_more_than_was_deposited(clock: Hand) -> None:
    budget = RetryBudget.ratio(0.25, min_per_second=0.5)
    calls = 1000

    def work() -> int:
        taken = 0
        for _ in range(calls):
            budget.calls += 1
            taken += budget.try_withdraw()
        return taken

    taken = hammer(work)
    assert budget.calls == THREADS * calls
    assert taken == budget.granted == THREADS * calls // 4 + 5
    assert budget.granted + budget.denied == THREADS * calls
    assert budget.level == 0


def test_threads_lose_no_count_of_the_hot_path(clock: Hand) -> None:
    budget = RetryBudget.inflight(1.0, min_concurrency=0)
    calls = 5000

    def work() -> int:
        for call in range(calls):
            budget.calls += 1
            if call % 500 == 0:
                assert budget.level > 0
            budget.good += 1
        return calls

    assert hammer(work) == budget.calls == budget.good
    assert budget.limit == 1


def test_threads_get_back_exactly_what_they_took(clock: Hand) -> None:
    budget = RetryBudget.refund(100, initial=100, cost=7, refill_per_second=0.0)

    def work() -> int:
        for _ in range(500):
            charge = budget.try_withdraw()
            budget.finish(good=True, charges=charge) if charge else None
        return 0

    hammer(work)
    assert budget.level == 100 // 7
    budget.reconfigure(cost=1)
    assert budget.level == 100


def test_threads_never_run_more_than_the_share_at_once(clock: Hand) -> None:
    budget = RetryBudget.inflight(0.2, min_concurrency=0)
    running: list[None] = []
    peaks: list[int] = []

    def work() -> int:
        for _ in range(400):
            budget.deposit()
            charge = budget.try_withdraw()
            if charge:
                running.append(None)
                peaks.append(len(running))
                running.pop()
                budget.release()
            budget.finish(good=True, charges=charge)
        return 0

    hammer(work)
    # The third is granted while two of at most ten executions are further attempts, a fourth never.
    assert max(peaks) <= 3
    assert (budget.level, budget.limit) == (1, 1)


# Processes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@each_family
def test_a_child_has_a_lock_and_counters_of_its_own(make: Callable[..., RetryBudget], settings: type) -> None:
    budget = make()
    budget.deposit()
    assert budget.try_withdraw()
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with budget._lock:
            locked.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait()
    child = os.fork()
    if child == 0:  # pragma: no cover  # in the child
        fresh = (budget.calls, budget.good, budget.granted, budget.denied, budget.refunded) == (0, 0, 0, 0, 0)
        budget.deposit()
        os._exit(0 if fresh and budget.level <= budget.limit and budget.try_withdraw() else 1)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (budget.calls, budget.granted) == (1, 1)


def test_a_child_spends_nothing_that_its_parent_earned(clock: Hand) -> None:
    budget = RetryBudget.ratio(1.0, min_per_second=0.1)
    budget.calls += 50
    assert budget.level == 52
    budget.calls += 50
    budget._after_fork()
    assert budget.level == budget.limit == 2
    budget.deposit()
    assert budget.level == 3


def test_a_budget_can_be_forgotten() -> None:
    budget = RetryBudget()
    key, ghost = id(budget), weakref.ref(budget)
    assert fork._followers[key]() is budget
    del budget
    gc.collect()
    assert ghost() is None


# What is passed by mistake.


@each_family
@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (-1, ValueError),
        (math.nan, TypeError),
        (1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
    ],
)
def test_charges_that_cannot_be_change_nothing(make, settings, wrong, kind):
    budget = make()
    before = (budget.level, budget.limit, budget.refunded, budget.good)
    with pytest.raises(kind, match="charges must be a whole number >= 0"):
        budget.refund(wrong)
    for good in (True, False):
        with pytest.raises(kind, match="charges must be a whole number >= 0"):
            budget.finish(good=good, charges=wrong)
    assert (budget.level, budget.limit, budget.refunded, budget.good) == before


@each_family
@pytest.mark.parametrize("wrong", [None, "bad", 0, True])
def test_what_is_no_verdict_changes_nothing(make, settings, wrong):
    budget = make()
    before = (budget.level, budget.granted, budget.denied)
    with pytest.raises(TypeError, match="verdict must be a Verdict"):
        budget.try_withdraw(wrong)
    with pytest.raises(TypeError, match="verdict must be a Verdict"):
        budget.fail(wrong)
    assert (budget.level, budget.granted, budget.denied) == before


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: RetryBudget.ratio(-1, name=""), "ratio"),
        (lambda: RetryBudget.refund(-1, name=""), "capacity"),
        (lambda: RetryBudget.grpc(-1, name=""), "max_tokens"),
        (lambda: RetryBudget.inflight(-1, name=""), "ratio"),
        (lambda: RetryBudget(len, name=""), "settings"),
    ],
)
def test_a_bad_name_is_listed_with_every_other_problem(make, setting):
    with pytest.raises(ConfigError) as caught:
        make()
    found = [problem.setting for problem in caught.value.problems]
    assert found[0] == "name"
    assert setting in found


def test_a_budget_that_is_used_as_a_decorator_says_where_it_belongs():
    with pytest.raises(ConfigError, match=r"a budget is no decorator: give it to Retry\(budget=\.\.\.\)"):

        @RetryBudget
        def ask():
            pass


# --- what good calls give back ---


@pytest.mark.parametrize("make", [RetryBudget.ratio, RetryBudget.refund], ids=["ratio", "refund"])
def test_what_a_good_call_gives_back_is_there_when_somebody_asks(
    make: Callable[..., RetryBudget], clock: Hand
) -> None:
    budget = make()
    before = budget.level
    charge = budget.try_withdraw()
    budget.finish(good=True, charges=charge)
    assert (budget.level, budget.refunded) == (before, charge)


def test_what_was_given_back_before_a_change_of_settings_is_not_lost(clock: Hand) -> None:
    budget = RetryBudget.ratio()
    budget.finish(good=True, charges=budget.try_withdraw())
    budget.reconfigure(refund=False)
    assert budget.refunded == 1
    budget.finish(good=True, charges=budget.try_withdraw())
    assert budget.refunded == 1
