"""Lists of strings with parameters, as structured fields write them (RFC 9651)."""

import re
from typing import Final, TypeAlias

Bare: TypeAlias = int | float | str | bool
Item: TypeAlias = tuple[str, dict[str, Bare]]

LONGEST: Final = 8_192
"""Characters of a field that are read. Longer ones are malformed. Source: own; a usual bound of servers for
all fields of a message together."""

_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_BARE = re.compile(
    rf"(?P<string>{_STRING})"
    r"|(?P<decimal>-?[0-9]{1,12}\.[0-9]{1,3})"
    r"|(?P<integer>-?[0-9]{1,15})"
    r"|(?P<bytes>:[A-Za-z0-9+/=]*:)"
    r"|\?(?P<boolean>[01])"
    r"|(?P<token>[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*)"
)
_NAME = re.compile(_STRING)
_KEY = re.compile(r" *([a-z*][a-z0-9_.*-]*)")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def parse_list(text: str) -> list[Item]:
    """
    Return the items of a list, each a string and its parameters.

    Raises:
        ValueError: It is no such list.

    """
    text = text.strip(" \t")
    if not text or len(text) > LONGEST:
        raise ValueError(text[:20])
    items: list[Item] = []
    at = 0
    while True:
        name = _NAME.match(text, at)
        if name is None:
            raise ValueError(text[at : at + 20])
        parameters, at = _parameters(text, name.end())
        items.append((_unquoted(name[0]), parameters))
        if at == len(text):
            return items
        comma = _COMMA.match(text, at)
        if comma is None:
            raise ValueError(text[at : at + 20])
        at = comma.end()


def _parameters(text: str, at: int) -> tuple[dict[str, Bare], int]:
    found: dict[str, Bare] = {}
    while text.startswith(";", at):
        key = _KEY.match(text, at + 1)
        if key is None:
            raise ValueError(text[at : at + 20])
        at = key.end()
        value: Bare = True  # a parameter without a value
        if text.startswith("=", at):
            bare = _BARE.match(text, at + 1)
            if bare is None:
                raise ValueError(text[at : at + 20])
            value, at = _value(bare), bare.end()
        found[key[1]] = value
    return found, at


def _value(bare: re.Match[str]) -> Bare:
    match bare.lastgroup:
        case "string":
            return _unquoted(bare[0])
        case "decimal":
            return float(bare[0])
        case "integer":
            return int(bare[0])
        case "boolean":
            return bare["boolean"] == "1"
        case _:
            return bare[0]


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])
