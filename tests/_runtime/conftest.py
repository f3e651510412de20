"""What tests of the runtime share."""

import gc

import pytest

from resilience._runtime import locked


@pytest.fixture
def no_gc():
    """Let only reference counts free what nobody uses."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=[False, True], ids=["lines", "locks"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether generated code takes locks: either way, on every build."""
    monkeypatch.setattr(locked, "_needs_locks", request.param)
    return bool(request.param)
