"""The golden path's defaults pass the gates that they were chosen by; ``make gates`` asks more seeds."""

import os

import pytest
from tests.sim import gates
from tests.sim.gates import GATES, Gate

from resilience.sim import Row, Scenario, scenarios

pytestmark = pytest.mark.timeout(600)

SEEDS = range(1, 1 + int(os.environ.get("GATE_SEEDS", "2")))
SLACK = 1.0
"""What a mean of two seeds may be beside the gate, in seconds of recovery: a second is one step of it."""


@pytest.fixture(scope="module")
def measured() -> dict[str, list[Row]]:
    return {scenario.name: gates.rows("standard", scenario, SEEDS) for scenario in scenarios.ALL}


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_the_golden_path_passes(gate: Gate, measured: dict[str, list[Row]]) -> None:
    average = gates.mean(measured[gate.scenario.name], gate.figure)
    if gate.figure == "mttr" and len(SEEDS) < 5:
        average -= SLACK
    assert gate.holds(average), f"{gate}, measured {average:g}"


@pytest.mark.parametrize(
    ("scenario", "figure", "at_most"),
    [
        (scenarios.METASTABLE_DIP, "mttr", 3),
        (scenarios.METASTABLE_DIP, "lost_x", 1.35),
        (scenarios.FLASH_CROWD, "mttr", 3),
        (scenarios.FLASH_CROWD, "lost_x", 1.35),
        (scenarios.HEALTHY_1PCT, "lost_pct", 0.03),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_four_hundred_small_clients_fare_nearly_as_twenty_large_ones(
    scenario: Scenario, figure: str, at_most: float
) -> None:
    (row,) = gates.rows("standard", scenario, [1], clients=400)
    assert getattr(row, figure) <= at_most


def test_without_the_limit_the_dip_costs_more() -> None:
    seeds = [1]
    with_limit = gates.rows("standard", scenarios.METASTABLE_DIP, seeds)
    without = gates.rows("without the limit", scenarios.METASTABLE_DIP, seeds)
    assert gates.mean(without, "lost_x") > 1.2 * gates.mean(with_limit, "lost_x")
