"""What the constructor of every policy takes, checked: all that is wrong comes out in one list."""

from collections.abc import Callable
from typing import TypeVar, cast

from resilience.errors import ConfigError, Problem

S = TypeVar("S")


def all_right(
    name: object,
    make: Callable[[], S],
    *,
    first: str | None = None,
    needed: str = "",
    on: object = None,
    classify: object = None,
) -> S:
    """
    Make a policy's settings with *make*.

    What stands in the place of the name, and is none, was often meant for something else: the problem
    then says how to write it.

    Args:
        name: What was given as the name.
        make: Makes the settings.
        first: The setting that a number in that place was most likely meant for; None for no such hint.
        needed: What a decorator of this kind cannot do without, such as ``idempotent=...``.
        on: What was given as ``on=``.
        classify: What was given as ``classify=``.

    Raises:
        ConfigError: What is wrong with them, and with what every policy takes, in one list.

    """
    problems = inherited_problems(name, on, classify)
    try:
        settings = make()
    except ConfigError as error:
        if not problems:
            raise
        subject, wrong = error.subject, [*problems, *error.problems]
    else:
        if not problems:
            return settings
        subject, wrong = type(settings).__name__.removesuffix("Settings"), problems
    if first is not None:
        wrong = [hinting(problem, subject, f"{subject}({first}=...)", needed) for problem in wrong]
    raise ConfigError(subject, wrong)


def hinting(problem: Problem, subject: str, instead: str, needed: str = "") -> Problem:
    """Return *problem*; if it is a name that is no text, with how to write what was meant: *instead*."""
    if problem.setting != "name" or isinstance(problem.value, str):
        return problem
    decorator = f"@{subject}({needed}), with parentheses"
    meant = decorator if callable(problem.value) else instead
    return Problem("name", problem.value, f"{problem.rule} (write {meant})")


def inherited_problems(name: object, on: object, classify: object) -> list[Problem]:
    """Return what is wrong with what every policy takes."""
    return [*name_problems(name), *judge_problems(on, classify)]


def name_problems(name: object) -> list[Problem]:
    """Return what is wrong with a policy's name."""
    if name is None or (isinstance(name, str) and name.strip()):
        return []
    return [Problem("name", name, "must be a non-empty string or None")]


def judge_problems(on: object, classify: object) -> list[Problem]:
    """Return what is wrong with ``on=`` and ``classify=``."""
    problems: list[Problem] = []
    if on is not None and not _is_match(on):
        rule = "must be an exception type, a tuple of exception types, or a predicate"
        problems.append(Problem("on", on, rule))
    if classify is not None and not callable(classify):
        problems.append(Problem("classify", classify, "must be callable"))
    if on is not None and classify is not None:
        problems.append(Problem("classify", classify, "cannot be combined with on="))
    return problems


def _is_match(on: object) -> bool:
    if isinstance(on, tuple):
        entries = cast("tuple[object, ...]", on)
        return bool(entries) and all(
            isinstance(each, type) and issubclass(each, Exception) for each in entries
        )
    if isinstance(on, type):
        return issubclass(on, Exception)
    return callable(on)
