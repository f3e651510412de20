"""
The public API as text, one line a name, pinned in ``tests/public_api.txt``.

    python scripts/public_api.py            print it
    python scripts/public_api.py --write    accept it

A module is public unless a part of its path begins with an underscore; of a module, the names in its
``__all__`` are public, or else those it defines without an underscore. Annotations are left out: the
types are pinned by ``tests/typing``, and print differently from one Python to the next.
"""

import argparse
import ast
import enum
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar

import resilience

PINNED = Path(__file__).parents[1] / "tests" / "public_api.txt"


@dataclass(frozen=True)
class Entry:
    """
    One public name.

    Attributes:
        module: The module it is public in.
        name: Its name there; for a member, ``Class.member``.
        kind: What it is: class, exception, function, property, value, or "see" for a re-export.
        detail: Its signature, bases or first home.
        summary: The first paragraph of its docstring, on one line.

    """

    module: str
    name: str
    kind: str
    detail: str = ""
    summary: str = ""

    @property
    def is_member(self) -> bool:
        """Whether it belongs to a class."""
        return "." in self.name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}: {self.kind} {self.detail}".rstrip()


def modules() -> list[str]:
    """Return the public modules, the front door first."""
    names = set()
    for root in map(Path, resilience.__path__):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if not any(part.startswith("_") for part in parts if part != "__init__"):
                names.add(".".join(["resilience", *(part for part in parts if part != "__init__")]))
    return sorted(names)


def entries() -> Iterator[Entry]:
    """Describe every public name; a thing that is public twice is described where it comes first."""
    homes: dict[int, str] = {}
    for module_name in modules():
        module = importlib.import_module(module_name)
        remarks = remarks_in(module)
        origins = origins_in(module)
        for name in public_names(module):
            thing = getattr(module, name)
            if isinstance(thing, types.ModuleType):
                continue  # a public module has a section of its own
            if not is_ours(thing) and name in origins:
                yield Entry(module_name, name, "see", origins[name])
            elif is_ours(thing) and id(thing) in homes:
                yield Entry(module_name, name, "see", homes[id(thing)])
            else:
                homes[id(thing)] = f"{module_name}.{name}"
                yield from describe(module_name, name, thing, remarks.get(name, ""))


def public_names(module: types.ModuleType) -> list[str]:
    """Return the public names of *module*."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    names = set()
    for node in tree_of(module).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name()):
                names.add(node.target.id)
            case ast.ImportFrom():  # `import X as X` is a re-export
                names.update(alias.name for alias in node.names if alias.asname == alias.name)
    return sorted(
        name for name in names if not name.startswith("_") and is_for_users(getattr(module, name, None))
    )


def is_for_users(thing: object) -> bool:
    """Whether a name without an underscore means something to users, as a type variable does not."""
    return not isinstance(thing, (TypeVar, ParamSpec))


def is_ours(thing: object) -> bool:
    """Whether it is a class or function of this package, and so knows its own docstring."""
    return (
        isinstance(thing, (type, types.FunctionType)) and thing.__module__.partition(".")[0] == "resilience"
    )


def origins_in(module: types.ModuleType) -> dict[str, str]:
    """Return where the module's names that come from other modules of the package come from."""
    found = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "resilience":
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return found


def remarks_in(module: types.ModuleType) -> dict[str, str]:
    """Return the docstrings that follow assignments."""
    body = tree_of(module).body
    found = {}
    for node, after in pairwise(body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and isinstance(after.value, ast.Constant):
                found[target.id] = first_paragraph(str(after.value.value))
    return found


def tree_of(module: types.ModuleType) -> ast.Module:
    """Parse the module's source."""
    return ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))


def describe(module: str, name: str, thing: object, remark: str) -> Iterator[Entry]:
    """Describe one name, and the members of a class."""
    if isinstance(thing, type) and is_ours(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        yield Entry(module, name, kind, constructor(thing), first_paragraph(thing.__doc__ or ""))
        for member, value in sorted(members(thing).items()):
            yield from describe_member(module, f"{name}.{member}", value)
    elif isinstance(thing, types.FunctionType) and is_ours(thing):
        kind = "async function" if inspect.iscoroutinefunction(thing) else "function"
        yield Entry(module, name, kind, signature(thing), first_paragraph(thing.__doc__ or ""))
    else:
        yield Entry(module, name, "value", "", remark)


def describe_member(module: str, name: str, value: object) -> Iterator[Entry]:
    """Describe one member of a class."""
    function = getattr(value, "__func__", value)  # of a classmethod or staticmethod
    if isinstance(value, enum.Enum):
        yield Entry(module, name, "member", repr(value.value))
    elif isinstance(function, types.FunctionType):
        kind = {classmethod: "classmethod", staticmethod: "staticmethod"}.get(type(value), "method")
        kind = f"async {kind}" if inspect.iscoroutinefunction(function) else kind
        yield Entry(module, name, kind, signature(function), first_paragraph(function.__doc__ or ""))
    elif isinstance(value, property):
        yield Entry(module, name, "property", "", first_paragraph(value.__doc__ or ""))
    else:
        yield Entry(module, name, "attribute")


def members(cls: type) -> dict[str, object]:
    """Return the public members that *cls* has from this package, its own before inherited ones."""
    if issubclass(cls, enum.Enum):
        return dict(cls.__members__)
    found: dict[str, object] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "resilience":
            found = {name: value for name, value in vars(base).items() if not name.startswith("_")} | found
    return found


def constructor(cls: type) -> str:
    """Return the signature of a class whose constructor is this package's."""
    if issubclass(cls, enum.Enum) or getattr(cls, "_is_protocol", False):
        return ""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "resilience":
            return ""
        if "__init__" in vars(base) or "__new__" in vars(base):
            return signature(cls)
    return ""


def signature(thing: type | types.FunctionType) -> str:
    """Return names, kinds and defaults of the parameters."""
    plain = inspect.signature(thing)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in plain.parameters.values()]
    text = str(plain.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    # A set of words prints in another order in every process.
    text = re.sub(
        r"frozenset\(\{(.*?)\}\)",
        lambda found: f"frozenset({{{', '.join(sorted(found[1].split(', ')))}}})",
        text,
    )
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def first_paragraph(docstring: str) -> str:
    """Return the summary of a docstring, on one line."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())


def text() -> str:
    """Return the public API, a line a name."""
    return "".join(f"{entry}\n" for entry in entries())


def main() -> None:
    """Print the public API, or accept it."""
    parser = argparse.ArgumentParser(description="The public API as text, one line a name.")
    parser.add_argument("--write", action="store_true", help=f"write it to {PINNED.name}")
    if parser.parse_args().write:
        PINNED.write_text(text(), encoding="utf-8")
    else:
        print(text(), end="")


if __name__ == "__main__":
    main()
