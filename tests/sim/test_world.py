"""Is the simulator right? What must hold before any figure of it means anything."""

import math
from dataclasses import replace
from random import Random

import pytest

from resilience import Pipeline, Policy, Retry, Timeout, backoff
from resilience.sim import Fault, Row, Scenario, Tier, World, scenarios

pytestmark = pytest.mark.timeout(300)


def none(scenario: Scenario, rng: Random) -> Policy:
    return Pipeline(Timeout(scenario.attempt_timeout))


def naive(scenario: Scenario, rng: Random) -> Policy:
    again = Retry(attempts=4, backoff=backoff.constant(0.05), budget=None, rng=rng)
    return Pipeline(again, Timeout(scenario.attempt_timeout))


def jittered(scenario: Scenario, rng: Random) -> Policy:
    again = Retry(attempts=4, backoff=backoff.full_jitter(base=0.1, cap=2.0), budget=None, rng=rng)
    return Pipeline(again, Timeout(scenario.attempt_timeout))


def run(scenario: Scenario, make=none, seed: int = 1, *, propagate: bool = False) -> Row:
    return World(scenario, make, seed, propagate).run().row()


def test_one_seed_gives_one_row():
    short = Scenario(name="short", horizon=30.0, faults=(Fault(kind="errors", value=0.3, start=6, end=12),))
    # By their text: a figure that there is none of is NaN, which equals nothing.
    assert repr(run(short, jittered, 7)) == repr(run(short, jittered, 7))
    assert repr(run(short, jittered, 7)) != repr(run(short, jittered, 8))


def test_two_policies_under_one_seed_meet_the_same_arrivals():
    healthy = Scenario(name="healthy", horizon=20.0, errors=0.0)
    worlds = [World(healthy, make, 3, False) for make in (none, naive)]
    first, second = (world.run() for world in worlds)
    assert repr(first.row()) == repr(second.row())  # without failures retries change nothing


@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (5, 0.8)])
def test_waiting_times_are_those_of_an_mmc_queue(workers: int, load: float):
    mean = 0.05
    rate = load * workers / mean
    queue = Scenario(
        name="mmc",
        tiers=(Tier(replicas=1, workers=workers, queue=None, mean=mean),),
        rate=rate,
        horizon=30_000 / rate,
        clients=1,
        errors=0.0,
        patience=1e6,
        attempt_timeout=1e6,
    )
    recorder = World(queue, lambda scenario, rng: Pipeline(Timeout(1e6)), 5, False).run()
    offered = load * workers
    terms = [offered**k / math.factorial(k) for k in range(workers)]
    last = offered**workers / math.factorial(workers) / (1 - load)
    erlang_c = last / (sum(terms) + last)
    expected = erlang_c * mean / (workers * (1 - load)) + mean
    assert recorder.mean_latency == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("make", [naive, jittered])
@pytest.mark.parametrize(
    "scenario", [scenarios.METASTABLE_DIP, scenarios.FLASH_CROWD, scenarios.LATENCY_SPIKE]
)
def test_unbudgeted_retries_never_recover(scenario: Scenario, make):
    assert run(replace(scenario, horizon=80.0), make).mttr == math.inf


def test_without_retries_the_dip_ends_soon_after_its_cause():
    row = run(scenarios.METASTABLE_DIP)
    assert 1 <= row.mttr <= 7
    assert row.lost_x == pytest.approx(2.2, abs=0.2)


@pytest.mark.parametrize(
    ("scenario", "figure", "expected", "within"),
    [
        (replace(scenarios.HEALTHY_1PCT, horizon=60.0), "lost_pct", 1.0, 0.2),
        (replace(scenarios.FLASH_CROWD, horizon=70.0), "lost_x", 2.9, 0.2),
        (replace(scenarios.LATENCY_SPIKE, horizon=62.0), "succ_fault", 52.0, 3.0),
        (replace(scenarios.BLACKOUT, horizon=60.0), "lost_x", 1.01, 0.06),
        (replace(scenarios.PARTIAL_HANG, horizon=92.0), "succ_fault", 90.0, 1.0),
        (replace(scenarios.ERROR_BURST, horizon=62.0), "succ_fault", 70.0, 2.0),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else None,
)
def test_doing_nothing_loses_what_is_known(scenario: Scenario, figure: str, expected: float, within: float):
    assert getattr(run(scenario), figure) == pytest.approx(expected, abs=within)


def test_retries_are_right_when_errors_are_fast():
    assert run(replace(scenarios.ERROR_BURST, horizon=62.0), jittered).succ_fault == pytest.approx(
        99.3, abs=0.4
    )


def test_retries_multiply_from_tier_to_tier():
    assert 55 <= run(scenarios.CHAIN3_REFUSE, naive).amp_peak <= 80


def test_expired_work_is_dropped_where_deadlines_are_propagated():
    dip = replace(scenarios.METASTABLE_DIP, horizon=70.0)
    assert run(dip, propagate=True).succ_fault > 3 * run(dip).succ_fault
