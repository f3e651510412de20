"""
A simulator of overload: servers with queues, impatient users, faults, and the package's own policies.

Everything happens in virtual time, and one seed gives one result, bit for bit. The policies are the real
ones: a `World` runs the same flows that threads and event loops run, on a clock that jumps from one event
to the next.

    from resilience import Pipeline
    from resilience.sim import World, scenarios

    row = World(scenarios.METASTABLE_DIP, lambda scenario, rng: Pipeline.standard("client")).run().row()
    print(row.mttr, row.lost_x)
"""

from resilience.sim import scenarios
from resilience.sim._kernel import Kernel
from resilience.sim._metrics import Recorder, Row
from resilience.sim._scenario import Fault, Scenario, Tier
from resilience.sim._world import FailedError, RefusedError, World

__all__ = [
    "FailedError",
    "Fault",
    "Kernel",
    "Recorder",
    "RefusedError",
    "Row",
    "Scenario",
    "Tier",
    "World",
    "scenarios",
]
