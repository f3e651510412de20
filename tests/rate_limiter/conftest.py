"""What the tests of the rate limiter share."""

import pytest

from resilience.testing import FakeClock


@pytest.fixture
def still_clock():
    """A clock that only the test moves, so that those who wait do wait."""
    with FakeClock(auto_advance=False) as clock:
        yield clock
