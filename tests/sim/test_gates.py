"""The golden path's defaults pass the gates that they were chosen by; ``make gates`` asks more seeds."""

import os
from functools import cache

import pytest
from tests.sim import gates
from tests.sim.gates import GATES, Gate

from resilience.sim import Row, Scenario, scenarios

pytestmark = pytest.mark.timeout(600)

SEEDS = range(1, 1 + int(os.environ.get("GATE_SEEDS", "2")))
SLACK = 1.0
"""What a mean of two seeds may be beside the gate, in seconds of recovery: a second is one step of it."""


@cache
def measured(scenario: Scenario, clients: int) -> list[Row]:
    return gates.rows("standard", scenario, SEEDS, clients)


@pytest.mark.parametrize("clients", [20, 400])
@pytest.mark.parametrize("gate", GATES, ids=str)
def test_the_golden_path_passes_for_few_large_clients_and_for_many_small_ones(
    gate: Gate, clients: int
) -> None:
    average = gates.mean(measured(gate.scenario, clients), gate.figure)
    if gate.figure == "mttr" and len(SEEDS) < 5:
        average -= SLACK
    assert gate.holds(average), f"{gate}, measured {average:g}"


def test_without_the_limit_the_dip_costs_more() -> None:
    seeds = [1]
    with_limit = gates.rows("standard", scenarios.METASTABLE_DIP, seeds)
    without = gates.rows("without the limit", scenarios.METASTABLE_DIP, seeds)
    assert gates.mean(without, "lost_x") > 1.2 * gates.mean(with_limit, "lost_x")
