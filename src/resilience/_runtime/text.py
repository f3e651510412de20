"""The text of generated functions: the statements of several policies around one call."""

from collections.abc import Iterable
from typing import Final

from resilience._runtime import locked
from resilience._runtime.hot import ELSE, NOTHING
from resilience._runtime.judging import OUTCOME
from resilience._runtime.locked import INDENT, indented
from resilience._runtime.signature import Signature
from resilience._runtime.text_part import Part
from resilience._runtime.text_time import Times


def stub(signature: Signature) -> str:
    """Return the text of a function before there is code for it, or after that has become old."""
    return signature.text([f"return {signature.awaited}first({signature.args})"])


def handing_on(signature: Signature) -> str:
    """Return the text of a function that hands its calls on to the one which is the present."""
    return signature.text([f"return {signature.awaited}present({signature.passed})"])


def plain(signature: Signature) -> str:
    """Return the text of a function whose every call goes the slow way."""
    return signature.text([signature.slow])


def hot(
    signature: Signature,
    parts: list[Part],
    *,
    for_deadline: bool,
    for_coroutine: bool,
    for_trio: bool,
    for_fake: bool,
    clock: str,
    is_inner: bool = False,
    make: "type[Body] | None" = None,
) -> str:
    """
    Return the text of a function with the success path of all *parts*.

    Args:
        signature: That of the function.
        parts: The policies, the first the outermost.
        for_deadline: Whether to look for a deadline that may be in force.
        for_coroutine: Whether to look, once, whether a plain function returns a coroutine.
        for_trio: Whether to look whether a task of trio calls, which an event loop of asyncio may run, too.
        for_fake: Whether nobody but a flow can keep a deadline, such as when time is not real.
        clock: Reads the clock.
        is_inner: Whether it is called by a policy around all *parts*: then it returns how the call failed, so
            that an error which is raised is one of the policies. Somebody else keeps the deadline in force.
        make: Makes the lines, if not `Body` does.

    """
    is_call = not (for_deadline or for_coroutine or is_inner) and make is None
    if is_call and all(part.hot == NOTHING for part in parts):
        return signature.text([f"return {signature.called}"])
    body = (make or Body)(
        signature,
        parts,
        for_deadline=for_deadline and not for_fake,
        for_coroutine=for_coroutine,
        for_trio=for_trio,
        is_inner=is_inner,
    )
    lines = body.lines()
    if for_deadline and for_fake:
        lines = ["if block() is not None:", INDENT + signature.slow, *lines]
    return signature.text([line.replace(CLOCK, clock) for line in lines])


class Body:
    """The lines of one function, section by section."""

    def __init__(
        self,
        signature: Signature,
        parts: list[Part],
        *,
        for_deadline: bool,
        for_coroutine: bool,
        for_trio: bool,
        is_inner: bool,
    ) -> None:
        self._signature, self._parts = signature, parts
        self._for_deadline, self._for_coroutine, self._for_trio = for_deadline, for_coroutine, for_trio
        self._is_inner = is_inner
        self._inner_first = parts[::-1]
        self._times = Times(signature, parts, for_deadline=for_deadline, for_trio=for_trio, is_inner=is_inner)
        self._reads_began = bool(self._times.timed) or any(part.hot.reads_began for part in parts)
        self._release = [line for part in self._inner_first for line in part.release]
        self._let_go = [line for part in self._inner_first for line in part.texts(part.hot.let_go)]
        self._asks = [part.text(part.hot.finds_good) for part in self._inner_first if part.hot.finds_good]

    def lines(self) -> list[str]:
        lines = self._times.look_for_deadline() if self._for_deadline else []
        for part in self._parts:
            for condition in part.plain(part.hot.unless):
                lines += [f"if {condition}:", INDENT + self._leave(part, [])]
        lines += self._times.find_queues() if self._times.has_queues else []
        lines += self._times.begin(reads_began=self._reads_began)
        taken: list[Part] = []
        for part in self._parts:
            lines += (
                self._admission(part, taken) if part.lock is None else self._locked_admission(part, taken)
            )
            taken.append(part)
        if self._times.cuts and self._asks:
            lines.append("is_late = False")
        lines += self._call_made()
        if not self._times.cuts:
            return lines + self._after_failure()
        return [
            *lines,
            "if not is_late:" if self._asks else "if failure is not None:",
            f"{INDENT}with Cut(cuts, key, cancels):",
            f"{INDENT}{INDENT}key = None",
            *indented(indented(self._after_failure())),
            "raise DeadlineExceededError(started=True)",
        ]

    def _admission(self, part: Part, taken: list[Part]) -> list[str]:
        lines = part.texts(part.hot.take)
        if part.hot.refused is not None:
            asks = part.text(part.hot.refused)
            lines.append(f"{ELSE}:" if asks == ELSE else f"if {asks}:")
            lines += indented([*self._undo(taken), self._leave(part, taken)])
        return lines + part.texts(part.hot.taken)

    def _locked_admission(self, part: Part, taken: list[Part]) -> list[str]:
        hot, undo = part.hot, self._undo(taken)
        refused = indented([*undo, self._leave(part, taken)])
        lines: list[str] = []
        take = part.plain((*hot.take, *hot.taken))
        if hot.refused == ELSE:
            take = [*part.plain(hot.take), f"else: {part.holds} = False"]
            take += [f"if {part.holds}: {line}" for line in part.plain(hot.taken)]
        elif hot.refused is not None:
            lines += [f"if {part.text(hot.refused)}:", *refused]
        if take and part.lock is not None:
            own = part.texts(hot.undo)
            lines += locked.taken(part.lock, part.holds, take, undo=own, otherwise=undo)
        return [*lines, f"if not {part.holds}:", *refused] if hot.refused == ELSE else lines

    def _undo(self, taken: list[Part]) -> list[str]:
        undo = [line for each in reversed(taken) for line in each.texts(each.hot.undo)]
        return [*undo, *self._times.forget_task]

    def _leave(self, part: Part, taken: list[Part]) -> str:
        """Return what is done where *part* does not let the call pass."""
        outer = self._parts[: part.place - 1]
        untaken = () if taken else outer
        if (
            part.hot.refuse is None
            or any(each.hot.undo for each in taken)
            or any(each.hot.take for each in untaken)
        ):
            return self._signature.slow
        held = ", ".join(each.token for each in outer)
        a = "a" if self._signature.is_async else ""
        return (
            f"return {self._signature.awaited}{self._signature.plan}.{a}refused"
            f"({part.place - 1}, [{held}], {self._signature.args})"
        )

    def _attempt(self) -> list[str]:
        lines: list[str] = []
        if self._times.has_queues:
            queues = [part.text("$queue.began[task]") for part in self._times.timed]
            lines.append(" = ".join([*queues, "began"]))
        if self._times.cuts:
            lines.append("if key is not None: cuts.at[key] = deadline")
        if self._times.tells:
            lines.append("set_block(until)")
        kept = "value =" if self._good() else "return"
        return [*lines, f"{kept} {self._called}"]

    @property
    def _called(self) -> str:
        """What makes the call."""
        return self._signature.called

    def _call_made(self) -> list[str]:
        return ["try:", *indented(self._attempt()), *self._endings()]

    def _endings(self) -> list[str]:
        cut = [*self._release, *self._let_go]
        caught = ["except Exception as error:", *indented([*self._no_value, "failure = error"])]
        if self._times.has_queues:
            lines = [
                "except BaseException as error:",
                *indented(self._no_value),
                INDENT + self._times.how_it_failed,
                f"{INDENT}del task",
                f"{INDENT}if failure is None:",
                *indented(indented([*cut, *(self._times.unless_late if self._times.cuts else ["raise"])])),
            ]
        elif self._times.cuts:
            lines = [
                *caught,
                "except BaseException as error:",
                *indented([*cut, *self._times.unless_late, "failure = None"]),
            ]
        elif self._times.tells:
            lines = [
                *caught,
                "except BaseException:",
                *indented([*surely(self._times.set_back, cut), "raise"]),
            ]
        else:
            lines = caught
            if cut:
                lines += ["except BaseException:", *indented([*cut, "raise"])]
        good = self._good()
        return [*lines, "else:", *indented(good)] if good else lines

    def _surely_back(self, good: list[str]) -> list[str]:
        """Return *good*, which gives back what is held; surely, where that is done under locks."""
        held = [(part.holds, part.in_the_end) for part in self._inner_first if part.lock and part.in_the_end]
        return locked.surely(good, held) if held else good

    def _good(self) -> list[str]:
        lines = self._times.not_late() if self._times.has_queues else []
        if self._asks:
            return [*lines, *self._good_if_asked()]
        lines += self._times.uncut
        lines += surely(self._times.set_back, self._release) if self._times.tells else self._release
        lines += [*self._no_coroutine(self._let_go), *self._settled()]
        return self._surely_back([*lines, "return value"]) if lines else []

    def _no_coroutine(self, cut: list[str]) -> list[str]:
        if not self._for_coroutine:
            return []
        held = [f"{part.holds} = False" for part in self._inner_first if part.lock and part.in_the_end]
        return ["if type(value) is CoroutineType:", *indented([*cut, *held, "reject(fn, value)"])]

    def _settled(self) -> list[str]:
        # Before any call, at which an interrupt could strike: what a retry's budget has in flight.
        lines = [line for part in self._parts if not part.hot.reads_now for line in part.good]
        late = [part for part in self._inner_first if part.hot.reads_now]
        if late:
            lines.append("now = monotonic()")
        for part in late:
            lines += part.good
        if self._for_coroutine and self._signature.looks_once and not self._is_inner:
            lines.append("wrapper.is_plain()")
        return lines

    # Classifiers of values

    @property
    def _no_value(self) -> list[str]:
        return ["value = None"] if self._asks else []

    def _good_if_asked(self) -> list[str]:
        """Return what is done with a value that somebody may find bad; then flows take over what is held."""
        cut = [*self._release, *self._let_go]
        is_timed = self._times.has_queues
        lines = ["del task"] if is_timed else []
        lines += or_cut([self._times.set_back], cut) if self._times.tells else []
        asking = [f"is_good = {' and '.join(self._asks)}"]
        if any(OUTCOME in each for each in self._asks):
            asking.insert(0, f"{OUTCOME} = Outcome(value)")
        otherwise = ["except Exception:", f"{INDENT}is_good = False"]
        if self._times.cuts:
            otherwise += ["except BaseException as error:"]
            otherwise += indented([*cut, *self._times.unless_late, "is_good = False"])
            cut = []
        lines += [*self._no_coroutine(cut), *or_cut(asking, cut, otherwise)]
        good = [*self._times.uncut, *self._release, *self._settled(), "return value"]
        lines += ["if is_good:", *indented(self._surely_back(good))]
        return [*lines, *(["at = None"] if is_timed else []), "failure = None"]

    @property
    def _good_after_all(self) -> list[str]:
        if self._is_inner or not self._knows_value:
            return []
        return [f"{INDENT}{INDENT}if failure is None: return {self._value_after_all}"]

    _value_after_all = "value"

    _forgotten = "failure, replay"

    @property
    def _knows_value(self) -> bool:
        """Whether a call comes here that has returned something."""
        return bool(self._asks)

    def _after_failure(self) -> list[str]:
        tokens = ", ".join(part.token for part in self._parts)
        began = "began" if self._reads_began else "None"
        go_on = f"{self._signature.awaited}replay.origin.{'a' if self._signature.is_async else ''}replayed"
        at = ", at" if self._times.has_queues else ""
        if self._knows_value:
            at = f"{at or ', None'}, value=value"
        deadline = ", deadline=deadline" if self._for_deadline else ""
        lines = [
            "replay = None",
            "try:",
            *([INDENT + self._times.set_back] if self._times.tells and not self._times.has_queues else []),
            f"{INDENT}replay = Replay({self._signature.plan}, [{tokens}], failure, {began}{at}{deadline})",
            f"{INDENT}if replay.settle():",
            *self._good_after_all,
            f"{INDENT}{INDENT}{'return replay.ended()' if self._is_inner else 'raise failure'}",
            f"{INDENT}return {go_on}(replay, {self._signature.args})",
            "finally:",
        ]
        # Without tokens there is nothing to give back, and no error.
        close = ["if replay is not None and replay.tokens is not None:", INDENT + "replay.close()"]
        cut = [*self._release, *self._let_go]
        if cut:
            close = ["if replay is None:", *indented(cut), f"el{close[0]}", close[1]]
        lines += indented(close)
        lines.append(f"{INDENT}del {self._forgotten}")  # no cycle: frame -> error -> traceback -> frame
        return lines


CLOCK: Final = "monotonic()"
"""How statements read the clock, whatever may stand for it in the end."""


def surely(first: str, then: list[str]) -> list[str]:
    """Return the call *first*, and *then* also if a signal comes during the call."""
    return ["try:", INDENT + first, "finally:", *indented(then)] if then else [first]


def or_cut(lines: list[str], cut: list[str], otherwise: Iterable[str] = ()) -> list[str]:
    """Return *lines*, and *cut* for when a signal comes during one of them."""
    if cut:
        otherwise = [*otherwise, "except BaseException:", *indented([*cut, "raise"])]
    return ["try:", *indented(lines), *otherwise] if otherwise else lines
