"""
A gate's success path in two halves, for work that does not begin and end in one function.

A request is such work: its place is free again when its answer is complete, while its application may still
be busy. Both halves are put together from the statements that functions are generated from (``text.py``), and
made anew when the epoch ends.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from resilience import _clock
from resilience._runtime import compile as compiler
from resilience._runtime import text_halves
from resilience._runtime.epoch import epoch
from resilience._runtime.gate import Gate
from resilience._runtime.hot import Hot
from resilience._runtime.locked import needs_locks
from resilience._runtime.permit import Permit
from resilience._runtime.policy import Binding
from resilience._runtime.text import CLOCK
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
    clock, names_of_clock = _clock.reading()
    names = {"gate": gate, "Permit": Permit, **names_of_clock}
    names |= {f"{name}_1": value for name, value in hot.names.items()}
    namespace: dict[str, Any] = {}
    text = _text(Part(hot, 1, is_locked=needs_locks()), tuple(names)).replace(CLOCK, clock)
    exec(text, namespace)  # noqa: S102  # statements of this package
    return Halves(*namespace.pop("halves")(**names))  # no cycle: namespace -> function -> namespace


def _text(part: Part, names: tuple[str, ...]) -> str:
    hot = part.hot
    late = (*hot.release, *hot.good, *hot.let_go, hot.token or "")
    kept = [*part.plain(text_halves.kept(hot, late)), *(["began"] if hot.reads_began else [])]
    found = [f"{', '.join(kept)} = work.kept"] if kept else []
    none = ["if not work.holds: return", *found]
    held = ["work.holds = True", *([f"work.kept = {', '.join(kept)}"] if kept else [])]
    function = text_halves.function
    functions = {
        "take": function("def take(work)", *text_halves.way_in(part, "return False", held), "return True"),
        "give_back_after": function(
            "async def give_back_after(work, last)",
            "await last",
            *none,
            *text_halves.way_out(part, "work.holds = False"),
        ),
        "let_go": function(
            "def let_go(work)", *none, *part.texts(("work.holds = False", *hot.release, *hot.let_go))
        ),
        "permit": function(
            "def permit(work)",
            *found,
            "permit = Permit(gate)",
            f"permit._started = {'began' if hot.reads_began else 'monotonic()'}",
            f"token = {part.token}",
            "if work.holds: permit.token, work.holds = token, False",
            "return permit",
        ),
    }
    body = "".join(functions.values()).splitlines()
    return function(f"def halves({', '.join(names)})", *body, f"return {', '.join(functions)}")
