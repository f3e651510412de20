"""
Guards that are quick where all goes well: a gate's success path, in two halves around a block.

Each gate has a class of its own for an epoch, whose methods are generated as functions are for calls, and
hold the gate's objects as constants (``templates.py``). What is not plain success makes a guard a plain one.
"""

from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import ref

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime import compile as compiling
from resilience._runtime import text_halves
from resilience._runtime.epoch import epoch
from resilience._runtime.hot import Hot, leads_out
from resilience._runtime.locked import INDENT, needs_locks
from resilience._runtime.permit import Guard, Permit
from resilience._runtime.policy import Binding
from resilience._runtime.templates import MOST_TEMPLATES, Template, template
from resilience._runtime.text import CLOCK
from resilience._runtime.text_part import Part
from resilience.outcome import Verdict
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience._runtime.gate import Gate

ENDED: Final = Refusal(None)
"""The token of a quick guard whose block has ended."""


class QuickGuard(Guard):
    """
    A guard that has gone the quick way so far.

    Its token says all of it: None before its block, `ENDED` after it. Nothing else is set that the quick way
    does not need, as that is a good part of what a guard costs. On every other way it becomes a plain guard.
    Its methods are those of a gate whose epoch is over; the generated ones stand in front of them.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        __init__ = object.__init__  # whoever makes one sets its token and its gate

    def __enter__(self) -> Permit:
        return plain(self).__enter__()

    async def __aenter__(self) -> Permit:
        return await plain(self).__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        plain(self).__exit__(kind, error, trace)

    def settle(self, verdict: Verdict = Verdict.GOOD, *, retry_after: Seconds | None = None) -> None:
        plain(self).settle(verdict, retry_after=retry_after)

    def release(self) -> None:
        plain(self).release()


def plain(guard: Guard) -> Guard:
    """Return *guard*, which is a plain one from here on, at the same point of its use."""
    if guard.__class__ is not Guard:
        guard._ask = guard._gate._one  # its own, here and below
        guard._is_used = guard.token is not None
        guard._started = getattr(guard, "_started", None)
        guard.__class__ = Guard  # last: until then nothing has changed
    return guard


class Guards:
    """
    The class of one gate's guards, as long as an epoch lasts. Then the next guard has it made anew.

    Attributes:
        made_in: Number of the epoch that it is about.

    """

    __slots__ = ("__weakref__", "_gate", "_present", "made_in")

    def __init__(self, gate: "Gate") -> None:
        self._gate = ref(gate)  # which owns it: no cycle
        self._present: type[QuickGuard] | None = None
        self.made_in = -1
        epoch.add(self)

    def renewed(self) -> type[QuickGuard] | None:
        """Let the gate make quick guards in this epoch; return their class, or None if there are none."""
        made_in, gate = epoch.n, self._gate()  # first: what changes from here on ends this epoch
        if gate is None or self.made_in == made_in:
            return self._present
        made = _class_for(gate)
        with epoch.lock:
            if made_in != epoch.n:
                return None  # this time
            if self.made_in != made_in:  # nobody else was quicker, whose class it is then
                self._present = gate._make = made  # its own gate
                self.made_in = made_in
            return self._present

    def retire(self) -> None:
        """Let guards that are made, and those that are not yet in their block, go the plain way."""
        gate, present = self._gate(), self._present
        if gate is not None and present is not None:
            gate._make = None
            for name in ("__enter__", "__aenter__"):
                setattr(present, name, getattr(QuickGuard, name))
            self._present = None  # a block that has begun ends as it began


def _class_for(gate: "Gate") -> type[QuickGuard] | None:
    """Return a class of quick guards for *gate* as it is at present, if there can be one."""
    # Where locks are needed, nothing is left to be quick.
    hots = gate.own_hots(Binding(gate.name)) if compiling.is_on() and not needs_locks() else None
    hot = None if hots is None else hots[0][1]
    if hot is None or hot.classify is not None or text_halves.variable_of(hot) is None:
        return None
    # Not the gate itself, which owns the class: no cycle, and none that the collector does not see.
    others = {name: each for name, each in hot.names.items() if each is not gate}
    # What may know the gate by way of the user's is the class's own: the collector sees that.
    own = {f"the_{name}": each for name, each in others.items() if leads_out(each)}
    objects = {f"{name}_1": each for name, each in others.items() if f"the_{name}" not in own}
    methods: dict[str, Any] = {
        name: FunctionType(code.filled(objects, "<resilience guard>"), _names)
        for name, code in _methods_for(hot, gate, frozenset(objects)).items()
    }
    methods |= own
    return cast("type[QuickGuard]", type("QuickGuard", (QuickGuard,), {"__slots__": (), **methods}))


_names: Final[dict[str, Any]] = {
    "ENDED": ENDED,
    "Guard": Guard,
    "enter": QuickGuard.__enter__,
    "aenter": QuickGuard.__aenter__,
    "leave": QuickGuard.__exit__,
    "give_back": Guard.__del__,
}
"""What the methods of all classes look up."""


def _look_at_the_clock() -> None:
    _names["monotonic"] = _clock.monotonic
    _names.update(_clock.reading()[1])


_look_at_the_clock()
_clock.listeners.append(_look_at_the_clock)

_methods: Final[dict[object, dict[str, Template]]] = {}


def _methods_for(hot: Hot, gate: "Gate", objects: frozenset[str]) -> dict[str, Template]:
    """Return the methods that lack their *objects*, made once for each kind of statements."""
    clock, _ = _clock.reading()
    key = (hot.shape, frozenset(hot.names), objects, clock)
    known = _methods.get(key)
    if known is None:
        own = {
            name: "self._gate" if each is gate else f"self.the_{name}"
            for name, each in hot.names.items()
            if f"{name}_1" not in objects
        }
        texts = _texts(Part(hot, 1, known=own), has_own=any(each != "self._gate" for each in own.values()))
        known = {name: template(each.replace(CLOCK, clock), objects) for name, each in texts.items()}
        if len(_methods) < MOST_TEMPLATES:
            _methods[key] = known
    return known


def _texts(part: Part, *, has_own: bool) -> dict[str, str]:
    """Return the text of each method."""
    hot, token = part.hot, part.token
    is_known = text_halves.variable_of(hot) in hot.names  # the same for all guards
    late = (*hot.release, *hot.good)
    own = ", ".join(part.plain(name for name in text_halves.kept(hot, late) if name != hot.token))
    held, found = [f"self.token = {token}"], list[str]()
    if hot.reads_began:
        held.append("self._started = began")
        found += ["began = self._started"] if any("began" in each for each in late) else []
    if own:
        held.append(f"self._kept = {own}")
        found.append(f"{own} = self._kept")

    def way_in(slow: str) -> list[str]:
        slow = f"return {slow}"
        return [
            f"if self.token is not None: {slow}",
            *text_halves.way_in(part, slow, held),
            "return self",
        ]

    leaves = ["error is not None"]
    # One that became plain may hold something else, and lack what is kept, or what is its class's.
    if found or has_own or not is_known:
        leaves.append("type(self) is Guard")
    # Last: no call, at which another thread or an interrupt could come in, until it is given back.
    leaves += (
        [f"self.token is not {token}"]
        if is_known
        else [f"({token} := self.token) is None", f"{token} is ENDED"]
    )
    way_out = [
        f"if {' or '.join(leaves)}: return leave(self, kind, error, trace)",
        *found,
        *text_halves.way_out(part, "self.token = ENDED"),
    ]
    gone = [
        "try:",
        f"{INDENT}if self.token is ENDED: return",
        "except AttributeError: return",  # its making was interrupted
        "give_back(self)",  # an interrupt that strikes on the way into the block's end leaves it unended
    ]
    function = text_halves.function
    return {
        "__enter__": function("def __enter__(self)", *way_in("enter(self)")),
        "__aenter__": function("async def __aenter__(self)", *way_in("await aenter(self)")),
        "__exit__": function("def __exit__(self, kind, error, trace)", *way_out),
        "__aexit__": function("async def __aexit__(self, kind, error, trace)", *way_out),
        "__del__": function("def __del__(self)", *gone),
    }
