"""Every reference vector holds, or one table says why it does not."""

from collections import Counter

import pytest

from .adapters import ADAPTERS
from .conftest import DEFAULT
from .exceptions import EXCEPTIONS, Kind
from .replay import Vector, load, replay

NOT_ADAPTED = {row.where: row for row in EXCEPTIONS if row.kind is not Kind.DIFFERS}
SHIPPED_VECTORS = load(DEFAULT)


def test_vector(vector: Vector) -> None:
    row = NOT_ADAPTED.get(vector["algorithm"])
    if row is not None and vector["algorithm"] not in ADAPTERS:
        pytest.skip(f"{row.kind.value}: {row.reason}")
    wrong = replay(vector)
    assert not wrong, "\n".join([vector["id"], *wrong])


def test_an_algorithm_has_either_an_adapter_or_an_exception() -> None:
    assert sorted(ADAPTERS.keys() & NOT_ADAPTED.keys()) == []


def test_every_exception_is_about_something_that_exists() -> None:
    algorithms = {vector["algorithm"] for vector in SHIPPED_VECTORS}
    steps = {
        f"{vector['id']}#{number}"
        for vector in SHIPPED_VECTORS
        for number in range(1, len(vector["steps"]) + 1)
    }
    unknown = [row.where for row in EXCEPTIONS if row.where.partition(":")[0] not in algorithms | steps]
    assert unknown == []


def test_every_exception_stands_once_and_says_why() -> None:
    assert [where for where, times in Counter(row.where for row in EXCEPTIONS).items() if times > 1] == []
    assert [row.where for row in EXCEPTIONS if len(row.reason.split()) < 3] == []


def test_a_step_that_differs_says_what_happens_instead() -> None:
    assert [row.where for row in EXCEPTIONS if bool(row.ours) is not ("#" in row.where)] == []
    parts = [row.where for row in EXCEPTIONS if row.kind is Kind.DIFFERS]
    assert parts == [row.where for row in EXCEPTIONS if "#" in row.where or ":" in row.where]


def test_every_adapter_has_a_vector() -> None:
    assert sorted(ADAPTERS.keys() - {vector["algorithm"] for vector in SHIPPED_VECTORS}) == []
