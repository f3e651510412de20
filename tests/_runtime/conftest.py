"""What tests of the runtime share."""

import gc

import pytest


@pytest.fixture
def no_gc():
    """Let only reference counts free what nobody uses."""
    gc.disable()
    yield
    gc.enable()
