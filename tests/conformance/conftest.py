"""Which vectors are replayed: the file beside this one, or the one named by ``--vectors``."""

from pathlib import Path

import pytest

from .replay import load

DEFAULT = Path(__file__).with_name("vectors.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take ``--vectors FILE``; pytest knows it when it is given this folder: pytest tests/conformance."""
    parser.addoption(
        "--vectors",
        metavar="FILE",
        type=Path,
        default=DEFAULT,
        help="reference vectors to replay (default: the ones in tests/conformance)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each vector."""
    if "vector" not in metafunc.fixturenames:
        return
    # Unknown in a run of all tests, where pytest reads this file only after the command line.
    file = metafunc.config.getoption("--vectors", default=DEFAULT)
    try:
        vectors = load(file)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--vectors {file}: {error}") from error
    metafunc.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])
