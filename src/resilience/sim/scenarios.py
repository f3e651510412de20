"""The scenarios that defaults are chosen with."""

from typing import Final

from resilience.sim._scenario import Fault, Scenario, Tier

HEALTHY_1PCT: Final = Scenario(name="healthy_1pct", rate=280.0, errors=0.01)
"""Nothing goes wrong but one attempt in a hundred: what a policy costs in good times."""

METASTABLE_DIP: Final = Scenario(
    name="metastable_dip",
    horizon=150.0,
    faults=(Fault(kind="capacity", value=0.6, start=30.0, end=60.0),),
    unavoidable=4200.0,
)
"""60 % of the capacity is gone for 30 s: naive retries never recover."""

FLASH_CROWD: Final = Scenario(
    name="flash_crowd", faults=(Fault(kind="load", value=2.0, start=30.0, end=60.0),), unavoidable=6000.0
)
"""Twice the users for 30 s."""

LATENCY_SPIKE: Final = Scenario(
    name="latency_spike", faults=(Fault(kind="extra", value=0.9, start=30.0, end=60.0),)
)
"""Answers come 0.9 s later, with no capacity lost: a limiter must do no harm."""

BLACKOUT: Final = Scenario(
    name="blackout", faults=(Fault(kind="errors", value=1.0, start=30.0, end=45.0),), unavoidable=4500.0
)
"""Every attempt fails for 15 s: what comes after a total outage."""

ERROR_BURST: Final = Scenario(
    name="error_burst", rate=260.0, faults=(Fault(kind="errors", value=0.3, start=30.0, end=60.0),)
)
"""Three attempts in ten fail fast for 30 s: retries are right."""

PARTIAL_HANG: Final = Scenario(
    name="partial_hang",
    tiers=(Tier(replicas=10, workers=2, queue=60),),
    rate=250.0,
    faults=(Fault(kind="hang", value=1, start=30.0, end=90.0),),
)
"""One replica of ten never answers for a minute."""

CHAIN3_REFUSE: Final = Scenario(
    name="chain3_refuse",
    tiers=(Tier(workers=200, queue=None, mean=0.002),) * 3,
    rate=60.0,
    horizon=60.0,
    faults=(Fault(kind="errors", value=1.0, start=20.0, end=30.0),),
    unavoidable=600.0,
)
"""The last of three tiers fails every attempt for 10 s: retries multiply from tier to tier."""

ALL: Final = (
    HEALTHY_1PCT,
    METASTABLE_DIP,
    FLASH_CROWD,
    LATENCY_SPIKE,
    BLACKOUT,
    ERROR_BURST,
    PARTIAL_HANG,
    CHAIN3_REFUSE,
)
"""Every scenario."""
