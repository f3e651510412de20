"""
A gate's success path in two halves, for work that does not begin and end in one function.

A request is such work: its place is free again when its answer is complete, while its application may still
be busy. Both halves are put together from the statements that functions are generated from (``text.py``), and
made anew when the epoch ends.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from types import CodeType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import compile as compiler
from resilience._runtime.epoch import epoch
from resilience._runtime.gate import Gate
from resilience._runtime.hot import ELSE, Hot
from resilience._runtime.locked import INDENT, indented, needs_locks
from resilience._runtime.permit import Permit
from resilience._runtime.policy import Binding
from resilience._runtime.text_part import Part
from resilience.outcome import Verdict


class Work:
    """
    A piece of work that holds something of a gate, or nothing yet.

    Nothing is set when it is made, which would cost as much again: whoever makes one sets *halves*, and
    *holds* to False.

    Attributes:
        halves: The functions by which it takes and gives back: see `Halved.halves`.
        holds: Whether it holds what it took. No call, at which an interrupt could strike, is between that
            and the statement that takes or gives back.
        kept: What its halves must remember.

    """

    __slots__ = ("halves", "holds", "kept")

    halves: "Halves"
    holds: bool
    kept: Any

    def hold_by(self, permit: Permit) -> None:
        """Hold what *permit* was given for, which was not to be had at once."""
        self.halves, self.kept, self.holds = _BY_PERMIT, permit, True

    def settle(self, verdict: Verdict) -> None:
        """Give back what is held, with what the work taught us: see `Permit.settle`."""
        if self.holds:
            _settle(self.halves.permit(self), verdict)


@dataclass(frozen=True, slots=True)  # not a tuple, whose fields take longer to read
class Halves:
    """
    The functions of one epoch. What one of them took is given back by another of the same, once.

    Attributes:
        take: Takes what the work needs, if it is to be had at once; returns whether it was.
        give_back_after: Awaits the last step of work that went well, then gives it back. If the step fails,
            nothing is given back.
        let_go: Gives it back, and nothing is learnt.
        permit: Returns a permit for it, to settle in another way; the work holds nothing any more.

    """

    take: Callable[[Work], bool]
    give_back_after: Callable[[Work, Awaitable[None]], Awaitable[None]]
    let_go: Callable[[Work], None]
    permit: Callable[[Work], Permit]


class Halved:
    """
    The success path of a gate in two halves, for work that does not end where it begins.

    What is to be had at once is taken and given back by generated code, as around a function. For all else
    the gate is asked for a permit, by which the work holds it from then on: `Work.hold_by`.

    Args:
        gate: A gate that gives out places and no more: a concurrency limiter.

    Attributes:
        halves: The present functions; None if they are to be made anew: see `renewed`.

    Example:
        >>> from resilience import ConcurrencyLimiter
        >>> uploads = ConcurrencyLimiter("uploads", limit=1)
        >>> halved, work = Halved(uploads), Work()
        >>> work.halves, work.holds = halved.halves or halved.renewed(), False
        >>> if not work.halves.take(work):
        ...     work.hold_by(uploads.try_acquire())
        >>> uploads.inflight
        1
        >>> work.halves.let_go(work)
        >>> uploads.inflight
        0

    """

    __slots__ = ("__weakref__", "_gate", "halves")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.halves: Halves | None = None
        epoch.add(self)

    def retire(self) -> None:
        """Let the next look have them made anew."""
        self.halves = None

    def renewed(self) -> Halves:
        """Return the functions, made anew: ones that take nothing where no code is generated."""
        made_in, gate = epoch.n, self._gate  # the epoch first: what changes from here on ends it
        hot = gate.hot(Binding(gate.name)) if compiler.is_on() else None
        halves = _NONE if hot is None else _halves(gate, hot)
        with epoch.lock:
            if made_in != epoch.n:
                return _NONE  # this time
            self.halves = halves
        return halves


# Where no code is generated, or a gate's success path takes more than a count.


def _takes_nothing(*_given: Any) -> Any:
    return False


_NONE: Final = Halves(*[_takes_nothing] * len(fields(Halves)))


# For work that holds what it took by a permit.


def _permit_of(work: Work) -> Permit:
    permit: Permit = work.kept
    work.holds = False
    return permit


async def _give_back_permit(work: Work, last: Awaitable[None]) -> None:
    await last
    work.settle(Verdict.GOOD)


def _release_permit(work: Work) -> None:
    if work.holds:
        _permit_of(work).release()


_BY_PERMIT: Final = Halves(_takes_nothing, _give_back_permit, _release_permit, _permit_of)


def _settle(permit: Permit, verdict: Verdict) -> None:
    try:
        permit.settle(verdict)
    except BaseException as error:
        permit.release()
        if not isinstance(error, Exception):  # a user's limit that fails to learn does not break the work
            raise


def _halves(gate: Gate, hot: Hot) -> Halves:
    names = {"gate": gate, "monotonic": _clock.monotonic, "Permit": Permit}
    names |= {f"{name}_1": value for name, value in hot.names.items()}
    namespace: dict[str, Any] = {}
    exec(_text(Part(hot, 1, is_locked=needs_locks()), tuple(names)), namespace)  # noqa: S102  # statements of this package
    return Halves(*namespace.pop("halves")(**names))  # no cycle: namespace -> function -> namespace


def _text(part: Part, names: tuple[str, ...]) -> str:
    first = _first(part, ())
    kept = tuple(sorted(_variables(first) & {name for each in _second(part, ()) for name in _names(each)}))
    lines = [f"def halves({', '.join(names)}):"]
    for function in (_first(part, kept), *_second(part, kept)):
        lines += [INDENT + line for line in function]
    lines.append(f"{INDENT}return {', '.join(field.name for field in fields(Halves))}")
    return "\n".join(lines) + "\n"


def _first(part: Part, kept: tuple[str, ...]) -> list[str]:
    hot = part.hot
    refused = [] if hot.refused is None else [f"{_condition(part, hot.refused)}: return False"]
    take = [
        *part.plain(hot.take),
        *refused,
        "work.holds = True",
        *([f"work.kept = {', '.join(kept)}"] if kept else []),
        *part.plain(hot.taken),
    ]
    return _function(
        "def take(work):",
        *(f"if {condition}: return False" for condition in part.plain(hot.unless)),
        *(["began = monotonic()"] if hot.reads_began else []),
        *(take if part.lock is None else [f"with {part.lock}:", *indented(take)]),
        "return True",
    )


def _second(part: Part, kept: tuple[str, ...]) -> list[list[str]]:
    hot = part.hot
    known = [f"{', '.join(kept)} = work.kept"] if kept else []
    back = ["if not work.holds: return", *known, *part.texts(("work.holds = False", *hot.release))]
    now = ["now = monotonic()"] if hot.reads_now else []
    return [
        _function(
            "async def give_back_after(work, last):",
            "await last",
            *back,
            *now,
            *part.texts(hot.good),
        ),
        _function("def let_go(work):", *back, *part.texts(hot.let_go)),
        _function(
            "def permit(work):",
            *known,
            "permit = Permit(gate)",
            f"permit._started = {'began' if hot.reads_began else 'monotonic()'}",
            f"token = {part.token}",
            "if work.holds: permit.token, work.holds = token, False",
            "return permit",
        ),
    ]


def _condition(part: Part, refused: str) -> str:
    return refused if refused == ELSE else f"if {part.text(refused)}"


def _function(head: str, *body: str) -> list[str]:
    return [head, *(INDENT + line for line in body)]


def _variables(function: list[str]) -> set[str]:
    """Return the names that *function* gives values to."""
    return set(_inner(function).co_varnames) - {"work"}


def _names(function: list[str]) -> set[str]:
    """Return the names that *function* uses without giving them values, and those of attributes."""
    return set(_inner(function).co_names)


def _inner(function: list[str]) -> CodeType:
    module = compile("\n".join(function) + "\n", "<resilience halves>", "exec")
    return next(each for each in module.co_consts if isinstance(each, CodeType))
