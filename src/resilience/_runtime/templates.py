"""Texts and code of generated functions, made once for each kind: to decorate is to put objects in."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Final

from resilience._runtime import text
from resilience._runtime.hot import Hot
from resilience._runtime.signature import AsGiven, Signature
from resilience._runtime.text_around import BodyAroundStep
from resilience._runtime.text_part import Part

MOST_TEMPLATES: Final = 1_000
"""Texts and code that are kept of each sort; what comes after is made each time."""


def signature_of(fn: Callable[..., Any], name: str, *, is_async: bool) -> Signature | None:
    """Return how *fn* is called, as text; None if nobody can know."""
    key = None
    if type(fn) is FunctionType:
        code = fn.__code__
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _STARRED)
        defaults = (len(fn.__defaults__ or ()), tuple(fn.__kwdefaults__ or ()))
        key = (name.rpartition(".")[2], code.co_varnames, counts, defaults, is_async)
        if key in _signatures:
            return _signatures[key]
    try:
        parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return None
    if not all(each.name.isidentifier() for each in parameters):
        return None
    signature = Signature(name, parameters, is_async=is_async)
    if key is not None and len(_signatures) < MOST_TEMPLATES:
        _signatures[key] = signature
    return signature


_signatures: Final[dict[object, Signature]] = {}

_STARRED: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


@lru_cache(MOST_TEMPLATES)
def as_given(name: str, *, is_async: bool) -> Signature:
    """Return the signature of a function of that name which hands on what it is given as it is."""
    return AsGiven(name, is_async=is_async)


def defaults_of(fn: Callable[..., Any]) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """Return the defaults of *fn*, by position and by keyword."""
    if type(fn) is FunctionType:
        return fn.__defaults__, fn.__kwdefaults__
    parameters = inspect.signature(fn, follow_wrapped=False).parameters.values()
    given = [each for each in parameters if each.default is not each.empty]
    by_position = tuple(each.default for each in given if each.kind is not each.KEYWORD_ONLY)
    return by_position, {each.name: each.default for each in given if each.kind is each.KEYWORD_ONLY}


_NO_NAMES: Final[Mapping[str, str]] = {}


class Template:
    """
    Code that still lacks its objects, and where they belong in it.

    Attributes:
        code: The code, in which a text stands for each object.

    """

    __slots__ = ("_names", "_objects", "code")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        marked = [each if isinstance(each, str) and each[:1] == MARK else "" for each in code.co_consts]
        self._objects = tuple((place, each[1:]) for place, each in enumerate(marked) if each)
        self._names = {name: place for place, name in enumerate(code.co_names)}

    def filled(
        self, objects: Mapping[str, object], filename: str, renamed: Mapping[str, str] = _NO_NAMES
    ) -> CodeType:
        """
        Return the code with *objects* where their names stand, as if it stood in a file of that name.

        The objects live as long as the code, and a call that is under way when something changes keeps those
        that it began with. What it looks up instead goes by the names in *renamed*.
        """
        consts: list[object] = list(self.code.co_consts)
        for place, name in self._objects:
            consts[place] = objects[name] if name else _All(objects)
        names, known = list(self.code.co_names), self._names
        for name, other in renamed.items():
            if name in known:
                names[known[name]] = other
        return self.code.replace(co_consts=tuple(consts), co_names=tuple(names), co_filename=filename)


MARK: Final = "@"
"""
What the name of an object begins with where the object itself will stand, as a constant. Alone it stands for
an object that has them all as attributes.
"""

_templates: Final[dict[tuple[str, frozenset[str]], Template]] = {}


def template(written: str, names: frozenset[str]) -> Template:
    """
    Compile *written*, once for each text; *names* of objects in it become constants that are put in later.

    One of which no attribute is used is itself an attribute of a constant: the compiler believes that it
    knows whether a constant is true, and warns of one that is called.
    """
    key = (written, names)
    known = _templates.get(key)
    if known is None:
        # In the text, since not every Python can take two threads that parse into objects of ``ast``.
        def constant(found: re.Match[str]) -> str:
            name, dot = found[1], found[2]
            if name not in names:
                return found[0]
            return f"'{MARK}{name}'." if dot else f"'{MARK}'.{name}"

        module = compile(_NAME.sub(constant, written), "<resilience>", "exec")
        known = Template(next(each for each in module.co_consts if isinstance(each, CodeType)))
        if len(_templates) < MOST_TEMPLATES:
            _templates[key] = known
    return known


@lru_cache(MOST_TEMPLATES)
def stub(signature: Signature) -> CodeType:
    """Return the code of a function before there is any for it, or after that has become old."""
    return template(text.stub(signature), frozenset()).code


@lru_cache(MOST_TEMPLATES)
def handing_on(signature: Signature) -> CodeType:
    """Return the code of a function that hands its calls on."""
    return template(text.handing_on(signature), frozenset()).code


class _All:
    """Several objects as one, with a hash: profilers use code, and so its constants, as a key."""

    def __init__(self, objects: Mapping[str, object]) -> None:
        for name, value in objects.items():
            setattr(self, name, value)  # which, unlike an update, interns names: others are slow to find


_NAME: Final = re.compile(r"(?<![.\w])([A-Za-z_]\w*)(\.(?=[A-Za-z_]))?")
"""A name, and the dot behind it if an attribute is used."""


def source(
    signature: Signature,
    hots: Sequence[Hot],
    *,
    is_locked: bool = False,
    has_step: bool = False,
    clock: str,
    **flags: bool,
) -> str:
    """
    Return what `text.hot` does, put together once for each kind of function and policies.

    With *has_step* there is a policy without statements inside those of *hots*.
    """
    key = (signature.head, is_locked, has_step, clock, *flags.values(), *[hot.shape for hot in hots])
    known = _sources.get(key)
    if known is None:
        parts = [Part(hot, place, is_locked=is_locked) for place, hot in enumerate(hots, 1)]
        known = text.hot(signature, parts, make=BodyAroundStep if has_step else None, clock=clock, **flags)
        if len(_sources) < MOST_TEMPLATES:
            _sources[key] = known
    return known


_sources: Final[dict[object, str]] = {}


@lru_cache(MOST_TEMPLATES)
def lines(written: str) -> list[str]:
    """Return the lines of a text, as `linecache` keeps them."""
    return written.splitlines(keepends=True)
