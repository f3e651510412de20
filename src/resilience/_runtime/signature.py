"""How a function is called, as text: its name, its parameters, and the arguments that it hands on."""

import inspect
import keyword
import re
from collections.abc import Iterable
from typing import Final

from resilience._runtime.locked import indented

_WORD: Final = re.compile(r"(?<![.\w'])[A-Za-z_]\w*\b(?!=)")
"""A name of the text's own: no attribute, no argument by keyword, and no word in quotes."""

_STARS: Final[dict[object, str]] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class Signature:
    """
    A function's name and parameters, as text.

    Attributes:
        head: The line that a definition of the function begins with.
        passed: Stands for the arguments of a call that hands all of them on.
        args: Stands for two expressions: a tuple of the positional arguments, a dict of those by keyword.
        awaited: What stands before a call: ``await`` or nothing.
        called: The expression that calls the user's function.
        is_async: Whether it is a coroutine function.
        looks_once: Whether it need be asked only once what the user's function returns.
        plan: What the `Plan` of a call is called.
        slow: The statement that makes the call the slow way.

    """

    passed: Final = "\1"
    args: Final = "\2"
    plan = "plan"
    looks_once = True

    def __init__(self, name: str, parameters: list[inspect.Parameter], *, is_async: bool) -> None:
        self.is_async = is_async
        self.awaited = "await " if is_async else ""
        self.called = f"{self.awaited}fn({self.passed})"
        self.slow = f"return {self.awaited}slow({self.passed})"
        last = name.rpartition(".")[2]
        function = last if last.isidentifier() and not keyword.iskeyword(last) else "guarded_call"
        self.head = f"{'async def' if is_async else 'def'} {function}({_declared(parameters)}):"
        self._taken = frozenset(each.name for each in parameters)
        positional = [each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
        self._written = {
            self.passed: _passed(parameters),
            self.args: f"({_passed(positional)}{',' if positional else ''}), {{{_named(parameters)}}}",
        }

    def takes(self, names: Iterable[str]) -> bool:
        """Whether a parameter is called like one of *names*, so that `own` changes it."""
        return not self._taken.isdisjoint(names)

    def own(self, name: str) -> str:
        """Return what *name* is called in the text: another name, if a parameter is called so."""
        while name in self._taken:
            name += "_"
        return name

    def text(self, body: list[str]) -> str:
        """Return the text of a function with that *body*."""
        lines = "\n".join([self.head, *indented(body)]) + "\n"
        head, rest = lines[: len(self.head)], lines[len(self.head) :]
        if self.takes(_WORD.findall(rest)):
            rest = _WORD.sub(lambda found: self.own(found[0]), rest)
        for mark, written in self._written.items():
            rest = rest.replace(mark, written)
        return head + rest


class AsGiven(Signature):
    """The signature of a function that hands on what it is given as it is, such as for a key."""

    def __init__(self, name: str, *, is_async: bool) -> None:
        super().__init__(name, _ANY, is_async=is_async)


_ANY: Final = [
    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
]


class ByHand(Signature):
    """The signature of what makes one call of any function under a policy."""

    plan = "plan(policy, fn)"
    looks_once = False

    def __init__(self, *, is_async: bool) -> None:
        super().__init__("call", [], is_async=is_async)
        self.head = f"{'async def' if is_async else 'def'} call(policy, fn, args, kwargs):"
        self._written = {self.passed: "*args, **kwargs", self.args: "args, kwargs"}
        self.slow = f"return {self.awaited}slow(policy, fn, args, kwargs)"
        if is_async:  # a plain function may return what can be awaited
            got = f"type(value := fn({self.passed})) is CoroutineType"
            self.called = f"await (value if {got} else awaitable(fn, value))"


def _declared(parameters: list[inspect.Parameter]) -> str:
    texts: list[str] = []
    before: inspect.Parameter | None = None
    for each in parameters:
        if before is not None and before.kind is before.POSITIONAL_ONLY is not each.kind:
            texts.append("/")
        starless = before is None or before.kind not in (before.VAR_POSITIONAL, before.KEYWORD_ONLY)
        if each.kind is each.KEYWORD_ONLY and starless:
            texts.append("*")
        default = "" if each.default is each.empty else "=..."  # the function has the real one
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


def _named(parameters: list[inspect.Parameter]) -> str:
    keywords = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    return ", ".join(
        f"'{each.name}': {each.name}" if each.kind is each.KEYWORD_ONLY else f"**{each.name}"
        for each in keywords
    )
