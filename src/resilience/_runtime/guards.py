"""
Guards that are quick where all goes well: a gate's success path, in two halves around a block.

A class for each kind of statements is generated, as functions are for calls (``text.py``). What is not plain
success goes the way of every `Guard`, which is the superclass.
"""

import re
from collections.abc import Callable, Iterable
from string import Template
from typing import TYPE_CHECKING, Any, Final, cast

from resilience import _clock
from resilience._runtime import compile as compiling
from resilience._runtime.epoch import epoch
from resilience._runtime.hot import ELSE, Hot
from resilience._runtime.locked import INDENT, needs_locks
from resilience._runtime.permit import Guard, Permit
from resilience._runtime.policy import Binding

if TYPE_CHECKING:
    from resilience._runtime.gate import Gate

MOST_CLASSES: Final = 100
"""Kinds of statements for which there is a class; guards of further kinds are not quick."""


class Way:
    """
    How blocks pass one gate in one epoch. A class of its own for each kind adds what the statements use.

    Attributes:
        made_in: Number of the epoch.
        make: Makes a guard whose attributes are still to be set: to make it is a good part of what it costs.
            None if guards are not quick at present.

    """

    __slots__ = ("made_in", "make")

    def __init__(self, made_in: int, make: "Callable[[], QuickGuard] | None" = None) -> None:
        self.made_in = made_in
        self.make = make


UNKNOWN: Final = Way(-1)


class QuickGuard(Guard):
    """
    What the generated classes have in common.

    It keeps what the way out needs of the way in. One that cannot be quick loses its way: the statements do
    not know its token then.
    """

    __slots__ = ("_kept", "_way")

    _kept: Any
    _way: "Way | None"

    if not TYPE_CHECKING:
        __init__ = object.__init__  # see Way.make

    def _enter(self) -> Permit:
        self._lose_way()
        return super().__enter__()

    async def _aenter(self) -> Permit:
        self._lose_way()
        return await super().__aenter__()

    def _lose_way(self) -> None:
        gate = self._gate
        if gate._way.made_in != epoch.n:  # its own gate
            gate._way = way_of(gate)
        if not self._is_used:
            self._way = None
            self._ask = gate._one

    def __del__(self) -> None:
        try:
            token = self.token
        except AttributeError:  # its making was interrupted
            return
        if token is not None:
            super().__del__()


def way_of(gate: "Gate") -> Way:
    """Return the present way past *gate*."""
    made_in = epoch.n  # first: what changes from here on ends this epoch
    # Where locks are needed, nothing is left to be quick.
    hots = gate.own_hots(Binding(gate.name)) if compiling.is_on() and not needs_locks() else None
    hot = None if hots is None else hots[0][1]
    if hot is None or hot.classify is not None or hot.token is None or not _VARIABLE.fullmatch(hot.token):
        return Way(made_in)
    # Not the gate itself, which owns the way: no cycle.
    objects = {name: each for name, each in hot.names.items() if each is not gate}
    classes = _classes_of(hot, frozenset(objects))
    if classes is None:
        return Way(made_in)
    way = classes[0](made_in, classes[1])
    for name, each in objects.items():
        setattr(way, THE.format(name), each)
    return way


THE: Final = "the_{}"
"""What an object that statements use is called in a `Way`."""

_VARIABLE: Final = re.compile(r"\$(\w+)")


_names: Final[dict[str, Any]] = {"epoch": epoch, "guard_exit": Guard.__exit__}
"""What the methods of all classes look up."""


def _look_at_the_clock() -> None:
    _names["monotonic"] = _clock.monotonic


_look_at_the_clock()
_clock.listeners.append(_look_at_the_clock)

_classes: Final[dict[object, tuple[type[Way], Callable[[], QuickGuard]]]] = {}


def _classes_of(hot: Hot, objects: frozenset[str]) -> tuple[type[Way], Callable[[], QuickGuard]] | None:
    """Return the classes for those statements; *objects* are the names of what a way knows."""
    key = (hot.shape, frozenset(hot.names), objects)
    made = _classes.get(key)
    if made is None and len(_classes) < MOST_CLASSES:
        methods: dict[str, Any] = {}
        exec(compile(_text(_Half(hot, objects)), "<resilience guard>", "exec"), _names, methods)  # noqa: S102  # our own
        slots = tuple(THE.format(name) for name in sorted(objects))
        made = _classes[key] = (
            type("Way", (Way,), {"__slots__": slots}),
            cast("Any", type("QuickGuard", (QuickGuard,), {"__slots__": (), **methods})),
        )
    return made


class _Names(dict[str, str]):
    """A variable has an ending, so that it is none of the method's own."""

    def __missing__(self, name: str) -> str:
        return f"{name}_"


class _Half:
    """
    Statements of one gate, with the names of a method.

    Attributes:
        hot: The statements as the gate has them.
        kept: Variables, but for the token, that are set on the way in and used on the way out.

    """

    def __init__(self, hot: Hot, objects: frozenset[str]) -> None:
        self.hot = hot
        known = {name: f"way.{THE.format(name)}" if name in objects else "self._gate" for name in hot.names}
        self._names = _Names(known)
        way_in = _variables([*hot.unless, *hot.take, *hot.taken])
        kept = way_in & _variables([*hot.release, *hot.good]) - {*hot.names, (hot.token or "")[1:]}
        self.kept = ", ".join(self.texts(f"${name}" for name in sorted(kept)))

    @property
    def token(self) -> str:
        """What a guard remembers of its way in."""
        return self.text(self.hot.token or "")

    @property
    def knows_token(self) -> bool:
        """Whether that is the same for all guards."""
        return (self.hot.token or "")[1:] in self.hot.names

    def text(self, statement: str) -> str:
        return Template(statement).substitute(self._names)

    def texts(self, statements: Iterable[str]) -> list[str]:
        return [self.text(each) for each in statements]


def _variables(statements: Iterable[str]) -> set[str]:
    return {name for each in statements for name in _VARIABLE.findall(each)}


def _text(half: _Half) -> str:
    """Return the methods of a class."""
    return "".join(
        [
            _method("def __enter__(self)", _way_in(half, "return self._enter()")),
            _method("async def __aenter__(self)", _way_in(half, "return await self._aenter()")),
            _method("def __exit__(self, kind, error, trace)", _way_out(half)),
            _method("async def __aexit__(self, kind, error, trace)", _way_out(half)),
        ]
    )


def _way_in(half: _Half, slow: str) -> list[str]:
    hot = half.hot
    lines = [
        "if (way := self._way) is None or way.made_in != epoch.n or self._is_used:",
        INDENT + slow,
    ]
    for condition in half.texts(hot.unless):
        lines += [f"if {condition}:", INDENT + slow]
    if hot.reads_began:
        lines.append("began = monotonic()")
    lines += half.texts(hot.take)
    if hot.refused is not None:
        asks = half.text(hot.refused)
        lines += [f"{ELSE}:" if asks == ELSE else f"if {asks}:", INDENT + slow]
    # No call since it was taken, at which an interrupt could strike.
    lines += [f"self.token = {half.token}", "self._is_used = True"]
    if half.kept:
        lines.append(f"self._kept = {half.kept}")
    if hot.reads_began:
        lines.append("self._started = began")
    return [*lines, *half.texts(hot.taken), "return self"]


def _way_out(half: _Half) -> list[str]:
    hot = half.hot
    token = "self.token" if half.knows_token else f"({half.token} := self.token)"
    lines = [
        f"if error is not None or (way := self._way) is None or {token} is None:",
        f"{INDENT}return guard_exit(self, kind, error, trace)",
    ]
    if any("began" in each for each in (*hot.release, *hot.good)):
        lines.append("began = self._started")
    if half.kept:
        lines.append(f"{half.kept} = self._kept")
    # No call before what was taken is given back.
    lines += ["self.token = None", *half.texts(hot.release)]
    if hot.reads_now:
        lines.append("now = monotonic()")
    return [*lines, *half.texts(hot.good)]


def _method(head: str, body: list[str]) -> str:
    return "\n".join([f"{head}:", *(INDENT + line for line in body)]) + "\n"
