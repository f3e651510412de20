import pytest

from resilience.cli._demo._measure import Take, bins, percentile, recovery, summary, verdict
from resilience.cli._demo._plan import LONGEST, SHORTEST, Act, Plan

DIP = Act(
    key="dip", title="Capacity dip", says="", seconds=10.0, kind="capacity", fault_from=2.0, fault_to=4.0
)
HEALTHY = Act(key="healthy", title="Healthy", says="", seconds=10.0)


def take(*good_from_to: tuple[float, float], seconds: float = 10.0) -> Take:
    """Ten requests a second, answered well in the given spans."""
    dues = [(number + 0.5) / 10 for number in range(round(seconds * 10))]
    records = [(due, any(begin <= due < end for begin, end in good_from_to), 0.1) for due in dues]
    return Take(records=records, attempts=200, done=150, lags=[0.001] * len(records))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.99, None), ([5.0], 0.99, 5.0), (range(100), 0.99, 99), (range(100), 0.0, 0), ([2, 1], 0.5, 2)],
)
def test_a_percentile_is_one_of_the_values(values, share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_bins_hold_what_was_due_in_them_and_leave_out_the_part_of_one_at_the_end() -> None:
    assert bins(take((0.0, 1.0)), 1.2) == [(5, 5), (5, 5)]


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        ([(0.0, 10.0)], 0.0),
        ([(0.0, 2.0), (5.0, 10.0)], 1.0),
        ([(0.0, 2.0), (4.0, 5.5), (7.0, 10.0)], 3.0),
        ([(0.0, 2.0), (8.5, 10.0)], None),  # well, but not for long enough to be sure
        ([(0.0, 2.0)], None),
    ],
)
def test_a_side_has_recovered_when_it_stays_well(good, expected: float | None) -> None:
    found = recovery(take(*good), DIP)
    assert found == (expected if expected is None else pytest.approx(expected, abs=0.11))


def test_a_summary_counts_everything_once() -> None:
    told = summary(take((0.0, 2.0), (4.0, 10.0)), DIP)
    assert (told["requests"], told["good"], told["success"]) == (100, 80, 0.8)
    assert (told["success_during"], told["success_after"]) == (0.0, 1.0)
    assert told["attempts_per_call"] == 2.0
    assert told["wasted_work"] == pytest.approx(1 - 80 / 150, abs=1e-4)
    assert told["budget_spent"] == pytest.approx(20.0)
    assert told["recovery_seconds"] == 0.0


def test_without_a_fault_there_is_nothing_to_recover_from() -> None:
    told = summary(take((0.0, 10.0)), HEALTHY)
    assert (told["recovery_seconds"], told["success_during"]) == (None, None)


def test_of_no_requests_nothing_is_said() -> None:
    told = summary(Take(), HEALTHY)
    assert (told["success"], told["p99_seconds"], told["attempts_per_call"]) == (None, None, None)


WELL, DOWN = ((0.0, 10.0),), ((0.0, 2.0),)


@pytest.mark.parametrize(
    ("naive", "resilient", "problems"),
    [
        (DOWN, WELL, 0),
        (((0.0, 2.0), (7.0, 10.0)), WELL, 0),
        (WELL, WELL, 2),  # as soon, and no more in all
        (DOWN, DOWN, 2),  # no recovery, and no more in all
        (WELL, DOWN, 3),
    ],
)
def test_better_is_to_recover_sooner_and_to_answer_more(naive, resilient, problems: int) -> None:
    found = verdict([(DIP, summary(take(*naive), DIP), summary(take(*resilient), DIP))])
    assert len(found) == problems, found


def test_a_loss_in_another_act_counts_too() -> None:
    healthy = (HEALTHY, summary(take(*WELL), HEALTHY), summary(take((0.0, 9.4)), HEALTHY))
    dip = (DIP, summary(take(*DOWN), DIP), summary(take(*WELL), DIP))
    assert verdict([healthy, dip]) == ["Healthy: the resilient client answered fewer requests"]


@pytest.mark.parametrize("seconds", [SHORTEST, 60.0, LONGEST])
def test_the_acts_share_the_time_and_leave_room_to_see_a_recovery(seconds: float) -> None:
    acts = Plan(seconds=seconds).acts
    assert sum(act.seconds for act in acts) == pytest.approx(seconds)
    for act in acts:
        assert 0 <= act.fault_from <= act.fault_to <= act.seconds
    dip = next(act for act in acts if act.kind == "capacity")
    assert dip.seconds - dip.fault_to >= 3.0
