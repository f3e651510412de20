"""What the tests of integrations share."""

import importlib

import pytest
from tests.integrations.http_clients import Web
from tests.runtimes import Runtime


@pytest.fixture(params=["httpx", "httpx2"])
def web(request: pytest.FixtureRequest, runtime: Runtime) -> Web:
    return Web(importlib.import_module(request.param), runtime)
