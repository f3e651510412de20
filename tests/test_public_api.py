"""The public API is a decision: what is public stands in tests/public_api.txt."""

import importlib
import inspect
import runpy
from pathlib import Path

import pytest

import resilience

ROOT = Path(__file__).parents[1]
public_api = runpy.run_path(str(ROOT / "scripts" / "public_api.py"))


def test_the_public_api_is_the_one_that_was_accepted() -> None:
    accepted = (ROOT / "tests" / "public_api.txt").read_text(encoding="utf-8").splitlines()
    present = public_api["text"]().splitlines()
    gone = [f"- {line}" for line in accepted if line not in set(present)]
    new = [f"+ {line}" for line in present if line not in set(accepted)]
    assert not gone + new, "\n".join(
        ["if this is meant, run `make api` and say so in changelog.d", *gone, *new]
    )


def test_the_front_door_names_what_it_exports() -> None:
    assert sorted(resilience.__all__) == sorted(set(resilience.__all__)), "a name is listed twice"
    exported = {
        name
        for name, value in vars(resilience).items()
        if name.isidentifier() and not inspect.ismodule(value)
    }
    exported.discard("TYPE_CHECKING")  # type checkers know it by no other name
    assert {name for name in exported if not name.startswith("_")} <= set(resilience.__all__)
    assert set(resilience.__all__) <= set(dir(resilience))


def test_every_name_of_the_front_door_is_there() -> None:
    for name in resilience.__all__:
        assert getattr(resilience, name) is not None


def test_a_name_that_the_front_door_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        resilience.no_such_name  # looking is the act under test


def test_every_public_module_says_what_it_is() -> None:
    silent = [name for name in public_api["modules"]() if not importlib.import_module(name).__doc__]
    assert not silent, "\n".join(silent)


def test_every_public_class_and_function_says_what_it_does() -> None:
    documented = {"class", "exception", "function", "async function", "method", "async method", "property"}
    silent = [
        str(entry) for entry in public_api["entries"]() if entry.kind in documented and not entry.summary
    ]
    assert not silent, "\n".join(silent)
