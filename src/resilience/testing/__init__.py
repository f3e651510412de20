"""
What tests of services need: time that passes at will, failures to order, and a record of events.

With pytest, the fixtures ``fake_clock`` and ``recorded_events`` are there without an import.
"""

from resilience.testing._events import RecordedEvents, recorded_events
from resilience.testing._fake_clock import FakeClock
from resilience.testing._script import Delayed, Script, delayed, fail_times, script

__all__ = [
    "Delayed",
    "FakeClock",
    "RecordedEvents",
    "Script",
    "delayed",
    "fail_times",
    "recorded_events",
    "script",
]
