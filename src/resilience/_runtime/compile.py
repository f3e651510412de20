"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat.
Here they are put around one call of the user's function. Whatever is not plain success goes the slow way,
as flows: before anything was taken, simply by making the call there; after the function failed, as a
`Replay`, in which each gate finds the token of what it gave out, and the call its outcome.

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way.
"""

import functools
import inspect
import itertools
import keyword
import linecache
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from string import Template
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import drive
from resilience._runtime.flow import Inner
from resilience._runtime.hot import Hot, Replay, epoch, request
from resilience._runtime.policy import Binding, Policy
from resilience.deadline import current_deadline, usage

INDENT: Final = "    "

_numbers = itertools.count(1)


def is_on() -> bool:
    """Whether functions are generated: not if the environment says no, and not without a GIL."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return os.environ.get("RESILIENCE_COMPILE", "1") != "0" and has_gil


def compiled(
    policy: Policy, fn: Callable[..., Any], name: str, slow: Callable[..., Any], *, is_async: bool
) -> Callable[..., Any] | None:
    """Return a generated function that does as *slow* does, or None where none can be made."""
    # What says of itself that it takes other arguments than it does cannot be written out.
    if not is_on() or hasattr(fn, "__signature__") or policy.hots(Binding(name)) is None:
        return None
    try:
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if any(_is_reserved(each.name) for each in parameters):
        return None
    return Wrapper(policy, fn, name, slow, parameters, is_async=is_async).guarded


def source_of(guarded: Callable[..., Any]) -> str | None:
    """Return the text that *guarded* was generated from, or None if it was not."""
    code: CodeType | None = getattr(guarded, "__code__", None)
    if code is None or not code.co_filename.startswith("<resilience"):
        return None
    return "".join(linecache.getlines(code.co_filename))


class Wrapper:
    """
    One function that is guarded, and what is needed to generate it anew when something has changed.

    Attributes:
        guarded: The function. It stays the same object; its code is replaced. While a policy has no
            success path to write out, every call goes the slow way.

    """

    def __init__(
        self,
        policy: Policy,
        fn: Callable[..., Any],
        name: str,
        slow: Callable[..., Any],
        parameters: list[inspect.Parameter],
        *,
        is_async: bool,
    ) -> None:
        self._policy, self._name, self._is_async = policy, name, is_async
        self._parameters = parameters
        self._serials: dict[int, int] = {}  # of policies; they stay in the namespace, so no id comes again
        self._filename = f"<resilience {name} {next(_numbers)}>"
        flow = policy.flow_for(name)
        self._namespace: dict[str, Any] = {
            "__name__": fn.__module__ if isinstance(fn, FunctionType) else __name__,
            "clock": _clock,
            "CoroutineType": CoroutineType,
            "deadline_in_force": current_deadline,
            "deadlines": usage,
            "epoch": epoch,
            "fn": fn,
            "reject": _reject,
            "renew": self.renew,
            "Replay": Replay,
            "replayed": functools.partial(_areplayed if is_async else _replayed, flow, fn),
            "slow": slow,
            **{f"default_{each.name}": each.default for each in parameters},
        }
        self.guarded = self._made()
        self._namespace["guarded"] = self.guarded
        weakref.finalize(self.guarded, linecache.cache.pop, self._filename, None)

    def renew(self) -> None:
        """Generate the code anew."""
        self.guarded.__code__ = self._made().__code__

    def _made(self) -> FunctionType:
        made_in = epoch.n  # first: what changes from here on ends this epoch
        hots = self._policy.hots(Binding(self._name))
        source, names = self._written(hots)
        self._namespace.update(names, made_in=made_in)
        lines = source.splitlines(keepends=True)
        linecache.cache[self._filename] = (len(source), None, lines, self._filename)
        found: dict[str, Any] = {}
        exec(compile(source, self._filename, "exec"), self._namespace, found)  # noqa: S102  # it is our own text
        made: FunctionType = found[_function_name(self._name)]
        return made

    def _written(self, hots: list[tuple[Policy, Hot]] | None) -> tuple[str, dict[str, object]]:
        names: dict[str, object] = {}
        parts: list[Part] = []
        for policy, hot in hots or ():
            serial = self._serials.setdefault(id(policy), len(self._serials) + 1)
            part = Part(policy, hot, serial)
            names.update(part.objects)
            parts.append(part)
        head = "async def" if self._is_async else "def"
        lines = [f"{head} {_function_name(self._name)}({_declared(self._parameters)}):"]
        body = _renewal(_passed(self._parameters), self._is_async)
        if hots is None:
            body.append(_slow(_passed(self._parameters), self._is_async))
        else:
            body += _body(parts, self._parameters, self._is_async)
        lines += _indented(body)
        return "\n".join(lines) + "\n", names


class Part:
    """The statements of one policy, with the names of one function."""

    def __init__(self, policy: Policy, hot: Hot, serial: int) -> None:
        self._names = _Names(f"_{serial}")
        self.policy_name = f"policy_{serial}"
        self.objects: dict[str, object] = {self.policy_name: policy}
        self.objects |= {self._names[name]: value for name, value in hot.names.items()}
        self.hot = hot

    def text(self, statement: str) -> str:
        return Template(statement).substitute(self._names)

    def texts(self, statements: Iterable[str]) -> list[str]:
        return [self.text(each) for each in statements]


class _Names(dict[str, str]):
    """Every name with the policy's own ending."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self._ending = ending

    def __missing__(self, name: str) -> str:
        return name + self._ending


def _renewal(passed: str, is_async: bool) -> list[str]:
    awaited = "await " if is_async else ""
    return ["if epoch.n != made_in:", f"{INDENT}renew()", f"{INDENT}return {awaited}guarded({passed})"]


def _slow(passed: str, is_async: bool) -> str:
    return f"return {'await ' if is_async else ''}slow({passed})"


def _body(parts: list[Part], parameters: list[inspect.Parameter], is_async: bool) -> list[str]:
    awaited = "await " if is_async else ""
    passed = _passed(parameters)
    slow = _slow(passed, is_async)
    release = [line for part in reversed(parts) for line in part.texts(part.hot.release)]
    let_go = [*release, *(line for part in reversed(parts) for line in part.texts(part.hot.let_go))]
    reads_began = any(part.hot.reads_began for part in parts)
    reads_now = any(part.hot.reads_now for part in parts)
    body = ["if deadlines.used and deadline_in_force() is not None:", INDENT + slow]
    for part in parts:
        for condition in part.texts(part.hot.unless):
            body += [f"if {condition}:", INDENT + slow]
    if reads_began:
        body.append("began = clock.monotonic()")
    taken: list[Part] = []
    for part in parts:
        body += part.texts(part.hot.take)
        if part.hot.refused is not None:
            body.append(f"if {part.text(part.hot.refused)}:")
            body += [INDENT + line for each in reversed(taken) for line in each.texts(each.hot.undo)]
            body.append(INDENT + slow)
        body += part.texts(part.hot.taken)
        taken.append(part)
    tokens = ", ".join(
        f"({part.policy_name}, {part.text(part.hot.token)})" for part in parts if part.hot.token
    )
    began = "began" if reads_began else "None"
    good = list(release)
    if not is_async:
        held = [line for part in reversed(parts) for line in part.texts(part.hot.let_go)]
        good += ["if type(value) is CoroutineType:", *_indented([*held, "reject(fn, value)"])]
    if reads_now:
        good.append("now = clock.monotonic()")
    for part in reversed(parts):
        good += part.texts(part.hot.good)
    body += ["try:", f"{INDENT}value = {awaited}fn({passed})"]
    body += ["except Exception as error:", f"{INDENT}failure = error"]
    if let_go:
        body += ["except BaseException:", *_indented([*let_go, "raise"])]
    body += ["else:", *_indented([*good, "return value"])]
    body += [
        "replay = None",
        "try:",
        f"{INDENT}replay = Replay(failure, {began}, [{tokens}])",
        f"{INDENT}return {awaited}replayed(replay, {_as_arguments(parameters)})",
        "finally:",
        f"{INDENT}del failure",  # no cycle: frame -> error -> traceback -> frame
        f"{INDENT}if replay is not None:",
        f"{INDENT}{INDENT}replay.close()",
    ]
    if let_go:
        body += [f"{INDENT}else:", *_indented(_indented(let_go))]
    return body


def _indented(lines: Iterable[str]) -> list[str]:
    return [INDENT + line for line in lines]


def _replayed(flow: Inner, fn: Callable[..., Any], replay: Replay, args: Any, kwargs: Any) -> Any:
    return drive.unwrap(drive.run(request(flow, fn, args, kwargs, replay)))


async def _areplayed(flow: Inner, fn: Callable[..., Any], replay: Replay, args: Any, kwargs: Any) -> Any:
    from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async function

    return drive.unwrap(await adrive.run(request(flow, fn, args, kwargs, replay)))


def _reject(fn: Callable[..., Any], value: Any) -> None:
    value.close()
    raise TypeError(drive.returned_a_coroutine(fn))


def _function_name(name: str) -> str:
    last = name.rpartition(".")[2]
    return "guarded_call" if _is_reserved(last) or keyword.iskeyword(last) else last


def _is_reserved(name: str) -> bool:
    """Whether generated text cannot use *name*, as it uses it otherwise: what ends so is a policy's."""
    return name in RESERVED or not name.isidentifier() or name.rpartition("_")[2].isdigit()


def _declared(parameters: list[inspect.Parameter]) -> str:
    texts: list[str] = []
    before: inspect.Parameter | None = None
    for each in parameters:
        if before is not None and before.kind is before.POSITIONAL_ONLY is not each.kind:
            texts.append("/")
        starless = before is None or before.kind not in (before.VAR_POSITIONAL, before.KEYWORD_ONLY)
        if each.kind is each.KEYWORD_ONLY and starless:
            texts.append("*")
        default = "" if each.default is each.empty else f"=default_{each.name}"
        texts.append(_STARS.get(each.kind, "") + each.name + default)
        before = each
    if before is not None and before.kind is before.POSITIONAL_ONLY:
        texts.append("/")
    return ", ".join(texts)


def _passed(parameters: list[inspect.Parameter]) -> str:
    return ", ".join(
        _STARS.get(each.kind, "") + (f"{each.name}=" if each.kind is each.KEYWORD_ONLY else "") + each.name
        for each in parameters
    )


def _as_arguments(parameters: list[inspect.Parameter]) -> str:
    """Return expressions for a tuple of the positional and a dict of the keyword arguments."""
    keywords = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    positional = [each for each in parameters if each not in keywords]
    return f"({_passed(positional)}{',' if positional else ''}), dict({_passed(keywords)})"


_STARS: Final[dict[object, str]] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}

RESERVED: Final = frozenset(
    {
        "BaseException", "CoroutineType", "Exception", "Replay", "began", "clock", "deadline_in_force",
        "deadlines", "dict", "epoch", "error", "failure", "fn", "guarded", "guarded_call", "made_in", "now",
        "reject", "renew", "replay", "replayed", "slow", "type", "value",
    }
)  # fmt: skip
"""Names that the generated text uses; a function with a parameter of such a name goes the slow way."""
