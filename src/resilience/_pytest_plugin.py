"""Fixtures for users' tests, which pytest finds. The package itself is imported when one is used."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from resilience.testing import FakeClock, RecordedEvents


@pytest.fixture
def fake_clock() -> "Iterator[FakeClock]":
    """A clock that stands still until it is moved: `resilience.testing.FakeClock`."""
    from resilience.testing import FakeClock  # noqa: PLC0415  # a run without this fixture imports nothing

    with FakeClock() as clock:
        yield clock


@pytest.fixture
def recorded_events() -> "Iterator[RecordedEvents]":
    """Every event from now on: `resilience.testing.recorded_events`."""
    from resilience import testing  # noqa: PLC0415  # as above

    with testing.recorded_events() as events:
        yield events
