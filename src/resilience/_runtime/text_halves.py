"""The text of a gate's success path in two halves, for what does not begin and end in one function."""

import re
from collections.abc import Iterable
from typing import Final

from resilience._runtime.hot import ELSE, Hot
from resilience._runtime.locked import INDENT, indented
from resilience._runtime.text_part import Part

_VARIABLE: Final = re.compile(r"\$(\w+)")


def kept(hot: Hot, later: Iterable[str]) -> list[str]:
    """Return its variables that are set on the way in and used *later*, in other statements."""
    set_before = _variables([*hot.unless, *hot.take, *hot.taken]) - {*hot.names}
    return [f"${name}" for name in sorted(set_before & _variables(later))]


def variable_of(hot: Hot) -> str | None:
    """Return the name that *hot* knows its token by, or None if it takes more than a name."""
    found = _VARIABLE.fullmatch(hot.token or "")
    return None if found is None else found[1]


def way_in(part: Part, slow: str, held: Iterable[str]) -> list[str]:
    """
    Return the lines that take what the gate gives out.

    Args:
        part: The gate's statements.
        slow: What is done where that is not to be had at once, or nobody can say so.
        held: What notes that it is held. No call, at which an interrupt could strike, is between.

    """
    hot = part.hot
    take = part.plain(hot.take)
    if hot.refused is not None:
        asks = part.text(hot.refused)
        take += [f"{ELSE}: {slow}" if asks == ELSE else f"if {asks}: {slow}"]
    take += [*held, *part.plain(hot.taken)]
    return [
        *(f"if {condition}: {slow}" for condition in part.plain(hot.unless)),
        *(["began = monotonic()"] if hot.reads_began else []),
        *(take if part.lock is None else [f"with {part.lock}:", *indented(take)]),
    ]


def way_out(part: Part, forgotten: str) -> list[str]:
    """Return the lines that give it back after all went well; *forgotten* notes that nothing is held."""
    now = ["now = monotonic()"] if part.hot.reads_now else []
    return [*part.texts((forgotten, *part.hot.release)), *now, *part.texts(part.hot.good)]


def function(head: str, *body: str) -> str:
    """Return the text of a function."""
    return "\n".join([f"{head}:", *(INDENT + line for line in body)]) + "\n"


def _variables(statements: Iterable[str]) -> set[str]:
    return {name for each in statements for name in _VARIABLE.findall(each)}
