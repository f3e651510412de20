"""Who may import whom: the table of docs/explanation/architecture.md, as a test."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1] / "src" / "resilience"

PRIMITIVES = {
    "cache", "circuit_breaker", "concurrency_limiter", "fallback", "hedge", "keyed", "rate_limiter", "retry",
    "retry_budget", "throttle", "timeout",
}  # fmt: skip
# Every layer may import those left of it. Within a layer a part imports only itself, but for the two lowest layers.
ORDER = ("pure", "ground", "runtime", "primitive", "telemetry", "standard", "top", "rim")
LAYERS = {
    **dict.fromkeys(("errors", "typing", "outcome", "backoff", "limits", "rates", "_core"), "pure"),
    **dict.fromkeys(("_clock", "deadline", "events", "priority"), "ground"),
    "_runtime": "runtime",
    **dict.fromkeys(PRIMITIVES, "primitive"),
    "telemetry": "telemetry",
    "standard": "standard",
    **dict.fromkeys(("idempotency", "slo", "sim", "streaming", "testing"), "top"),
    **dict.fromkeys(("integrations", "cli", "_pytest_plugin"), "rim"),
    "__init__": "front",
}
PURE_FILES = {"_machine.py", "_settings.py"}
# What a machine may take from the standard library: nothing that tells the time, rolls dice, waits or does I/O.
PURE_STDLIB = {
    "abc", "array", "base64", "bisect", "collections", "contextlib", "copy", "dataclasses", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "hmac", "inspect", "itertools", "json", "math", "numbers",
    "operator", "re", "statistics", "string", "struct", "sys", "types", "typing", "warnings", "weakref",
}  # fmt: skip
ASYNC = {"asyncio", "anyio", "trio"}
# A primitive asks `_clock` for the time and `_runtime` for everything that waits.
NOT_IN_A_PRIMITIVE = {*ASYNC, "selectors", "socket", "sqlite3", "subprocess", "time"}
# The outside libraries of a file at the rim, where they are not called like the file.
AT_THE_RIM = {
    "httpx": {"httpx", "httpx2"},
    # The demo serves with uvicorn, calls with httpx and exposes metrics, each in a process of its own.
    "cli": {"httpx", "opentelemetry", "prometheus_client", "rich", "uvicorn"},
    "settings": {"msgspec"},
    "_pytest_plugin": {"pytest"},
}


# What the rim may use although it is not public: the one clock, and what keeps deadlines on asyncio.
SHARED_WITH_THE_RIM = {"resilience._clock", "resilience._runtime._asyncio_cuts"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where the statement stands."""

    name: str
    lazy: bool = False
    typing_only: bool = False


class Finder(ast.NodeVisitor):
    """Collect the imports of one file, resolved to modules."""

    def __init__(self, path: PurePosixPath) -> None:
        self.package = ["resilience", *path.parts[:-1]]
        self.lazy = self.typing_only = False
        self.found: list[Import] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        was, self.lazy = self.lazy, True
        self.generic_visit(node)
        self.lazy = was

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        was = self.typing_only
        self.typing_only = was or ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body:
            self.visit(child)
        self.typing_only = was
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) + 1 - node.level] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            self.add(inner if inner.startswith("resilience.") and file_of(inner) else module)

    def add(self, name: str) -> None:
        self.found.append(Import(name, self.lazy, self.typing_only))


def file_of(module: str) -> PurePosixPath | None:
    """The file of a module of the package, relative to its root."""
    parts = module.split(".")[1:]
    for candidate in (
        PurePosixPath(*parts).with_suffix(".py") if parts else None,
        PurePosixPath(*parts, "__init__.py"),
    ):
        if candidate is not None and (ROOT / candidate).is_file():
            return candidate
    return None


def files() -> list[PurePosixPath]:
    return sorted(PurePosixPath(path.relative_to(ROOT).as_posix()) for path in ROOT.rglob("*.py"))


def imports(path: PurePosixPath, source: str) -> list[Import]:
    finder = Finder(path)
    finder.visit(ast.parse(source))
    return finder.found


def part(path: PurePosixPath) -> str:
    """The part of the house a file belongs to: its folder, or its own name."""
    return path.parts[0].removesuffix(".py")


def pure_files() -> set[PurePosixPath]:
    """Files that must be pure: those of the pure layer, and whatever of their own folder machines build on."""
    pure = {path for path in files() if path.name in PURE_FILES or LAYERS.get(part(path)) == "pure"}
    queue = list(pure)
    while queue:
        path = queue.pop()
        for found in imports(path, (ROOT / path).read_text()):
            target = file_of(found.name) if found.name.startswith("resilience.") else None
            # The folder's __init__ only re-exports; it runs whichever of the folder's files is imported.
            if target and part(target) == part(path) and target not in pure and target.name != "__init__.py":
                pure.add(target)
                queue.append(target)
    return pure


def layer(path: PurePosixPath) -> str:
    return "pure" if path in PURE or path.name in PURE_FILES else LAYERS[part(path)]


PURE = pure_files()


def refusal(path: PurePosixPath, found: Import) -> str | None:
    """Why *path* may not import it; None if it may."""
    if found.name == "resilience" or found.name.startswith("resilience."):
        return refusal_inside(path, found)
    return refusal_outside(path, found)


def refusal_inside(path: PurePosixPath, found: Import) -> str | None:
    where, name = layer(path), found.name
    target = file_of(name)
    if where == "front":
        return None if target and layer(target) != "rim" else "the front door leads inside, not to the rim"
    if name == "resilience":
        return None if where in {"top", "rim"} else "inner parts import modules, not the front door"
    if target is None:  # no such file: its name says enough
        target = PurePosixPath(*name.split(".")[1:]).with_suffix(".py")
    mine, theirs = part(path), part(target)
    if theirs not in LAYERS:
        return f"{theirs} is in no layer: give it one in this test and in the architecture page"
    if where == "pure":
        own = mine == theirs and (target in PURE or target.name in PURE_FILES)
        return (
            None
            if own or (layer(target) == "pure" and LAYERS[theirs] == "pure")
            else "a pure part imports pure parts only"
        )
    if mine == theirs == "integrations":
        stem, other = path.parts[1].removesuffix(".py"), target.parts[1].removesuffix(".py")
        return None if stem == other or other.startswith("_") else "an integration imports no other"
    if mine == theirs:
        return None
    if where == "primitive" and layer(target) != "pure" and LAYERS[theirs] == "primitive":
        return "a primitive imports no sibling: siblings meet through a Protocol"
    if (
        LAYERS[theirs] == "primitive"
        and mine != theirs
        and layer(target) == "pure"
        and where in {"runtime", "primitive", "telemetry"}
    ):
        return "another primitive's machine is its own affair"
    if found.typing_only and LAYERS[theirs] not in {"primitive", "rim"}:
        return None  # a name needed by annotations only is no dependency
    if where == "telemetry" and LAYERS[theirs] == "primitive":
        return "telemetry reads counters through a Protocol"
    private = any(step.startswith("_") for step in name.split("."))
    if where == "rim" and mine != "_pytest_plugin" and name not in SHARED_WITH_THE_RIM and private:
        return "the rim uses what is public"
    if mine == "cli" and theirs == "integrations":
        return None  # a command shows what users have: that is all that is public
    if where == "runtime" and theirs == "telemetry" and found.lazy:
        return None  # telemetry comes with the first policy made, and not before
    inward = ORDER.index(LAYERS[theirs]) < ORDER.index(where) or where == LAYERS[theirs] == "ground"
    return None if inward else f"{where} may not import {LAYERS[theirs]}"


def refusal_outside(path: PurePosixPath, found: Import) -> str | None:
    where, mine, library = layer(path), part(path), found.name.partition(".")[0]
    if library in sys.stdlib_module_names and library not in ASYNC:
        if where == "pure" and library not in PURE_STDLIB:
            return "a pure part is told the time and the draw, and does no I/O"
        if where == "ground" and library in {"threading", "random"}:
            return "locks and chance are _runtime's"
        if where == "primitive" and library in NOT_IN_A_PRIMITIVE:
            return "a primitive asks _clock and _runtime"
        return None
    named_so = any(library in step for step in path.parts)
    if library in ASYNC:
        if where == "runtime":
            ok = named_so or (library == "anyio" and path.name == "adrive.py")
        elif where in {"top", "rim"}:
            ok = named_so or found.lazy or mine == "cli"
        else:
            ok = False
        return None if ok else f"{library} is imported in its own file of _runtime only"
    if library == "opentelemetry" and where == "telemetry":
        inner = found.name.split(".")[1:2]
        return "the API only: the SDK is the application's" if inner in (["sdk"], ["exporter"]) else None
    if library == "tenacity" and mine == "retry" and where != "pure":
        return None if named_so or found.lazy else "tenacity is imported when it is used, not before"
    if mine == "idempotency" and where == "top":
        known = {"redis": {"redis", "valkey"}, "postgres": {"psycopg", "psycopg_pool"}}
        return (
            None
            if library in known.get(path.stem.strip("_"), ())
            else "a store's library is imported in its own file"
        )
    if where == "rim":
        stem = (
            path.parts[1].removesuffix(".py").strip("_")
            if mine == "integrations" and len(path.parts) > 1
            else mine
        )
        return (
            None
            if library == stem or library in AT_THE_RIM.get(stem, ())
            else "a file at the rim has one outside library"
        )
    return f"{where} may not import {library}"


def refusals(path: PurePosixPath, source: str) -> Iterator[str]:
    by_name = path.name in PURE_FILES or LAYERS.get(part(path)) == "pure"
    because = (
        ""
        if by_name or path not in PURE
        else " (pure, because a machine or settings of its folder build on it)"
    )
    for found in imports(path, source):
        reason = refusal(path, found)
        if reason:
            yield f"{found.name}: {reason}{because}"


@pytest.mark.parametrize("path", files(), ids=str)
def test_imports_point_inward(path: PurePosixPath) -> None:
    assert part(path) in LAYERS, "give it a layer, here and in docs/explanation/architecture.md"
    found = list(refusals(path, (ROOT / path).read_text()))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_core/window.py", "import time"),
        ("_core/window.py", "from resilience import _clock"),
        ("errors.py", "import anyio"),
        ("circuit_breaker/_machine.py", "import threading"),
        ("circuit_breaker/_machine.py", "def f():\n    import random"),
        ("circuit_breaker/_machine.py", "from resilience._runtime.policy import Policy"),
        ("circuit_breaker/_machine.py", "from resilience.rate_limiter._machine import Gcra"),
        ("circuit_breaker/_policy.py", "import time"),
        ("circuit_breaker/_policy.py", "import asyncio"),
        ("retry/_policy.py", "from resilience.retry_budget import RetryBudget"),
        ("retry/_policy.py", "def f():\n    from resilience.retry_budget import RetryBudget"),
        ("retry/_policy.py", "if TYPE_CHECKING:\n    from resilience.retry_budget import RetryBudget"),
        ("retry/_policy.py", "import tenacity"),
        ("retry/_policy.py", "from resilience import Timeout"),
        ("_runtime/drive.py", "import asyncio"),
        ("_runtime/_trio.py", "import asyncio"),
        ("_runtime/pipeline.py", "from resilience.retry import Retry"),
        ("_runtime/pipeline.py", "import resilience.telemetry"),
        ("deadline.py", "import threading"),
        ("deadline.py", "from resilience._runtime import drive"),
        ("telemetry/instruments.py", "from resilience.circuit_breaker import CircuitBreaker"),
        ("telemetry/instruments.py", "from opentelemetry.sdk.metrics import MeterProvider"),
        ("standard.py", "from resilience.integrations import httpx"),
        ("slo/gate.py", "import resilience.sim"),
        ("idempotency/stores/sqlite.py", "import redis"),
        ("integrations/httpx.py", "import requests"),
        ("integrations/httpx.py", "import resilience.integrations.asgi"),
        ("integrations/httpx.py", "from resilience._runtime import drive"),
        ("cli/_demo/_live.py", "import starlette"),
        ("cli/_demo/_live.py", "from resilience._runtime import drive"),
        ("cli/_demo/_live.py", "from resilience.integrations import _http_guard"),
        ("integrations/httpx.py", "from resilience.cli import main"),
        ("new_thing.py", "from resilience.another_thing import x"),
        ("__init__.py", "import resilience.cli"),
    ],
)  # fmt: skip
def test_an_import_that_points_outward_is_refused(path: str, source: str) -> None:
    where = PurePosixPath(path)
    assert part(where) not in LAYERS or list(refusals(where, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("circuit_breaker/_machine.py", "from resilience._core.permit import Refusal"),
        ("circuit_breaker/_machine.py", "from resilience.circuit_breaker._settings import CircuitBreakerSettings"),
        ("circuit_breaker/_policy.py", "from resilience.circuit_breaker._machine import Circuit"),
        ("circuit_breaker/_policy.py", "import threading\nfrom resilience import _clock"),
        ("retry/_policy.py", "def f():\n    import tenacity"),
        ("retry/_for_tenacity.py", "import tenacity"),
        ("_runtime/_trio.py", "import trio"),
        ("_runtime/policy.py", "def f():\n    import resilience.telemetry"),
        ("_clock.py", "import time\nif TYPE_CHECKING:\n    from resilience.testing import FakeClock"),
        ("telemetry/instruments.py", "from opentelemetry.metrics import Meter"),
        ("standard.py", "from resilience.retry import Retry"),
        ("sim/server.py", "from resilience.circuit_breaker import CircuitBreaker\nfrom resilience import Pipeline"),
        ("idempotency/stores/redis.py", "import redis"),
        ("integrations/httpx.py", "import httpx, httpx2\nfrom resilience.deadline import deadline"),
        ("integrations/httpx.py", "from resilience.integrations._http import judge"),
        ("cli/demo.py", "import rich\nfrom resilience.sim import simulate"),
        ("cli/_demo/_service.py", "import httpx\nfrom resilience.integrations.httpx import resilient"),
        ("__init__.py", "from resilience.errors import ConfigError"),
    ],
)  # fmt: skip
def test_an_import_that_points_inward_is_allowed(path: str, source: str) -> None:
    assert list(refusals(PurePosixPath(path), source)) == []


def test_the_front_door_only_re_exports() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert ast.get_docstring(tree), "the front door says what the package is"
    for node in tree.body[1:]:
        text = ast.unparse(node)
        private = isinstance(node, (ast.Assign, ast.AnnAssign, ast.FunctionDef)) and text.removeprefix(
            "def "
        ).startswith("_")
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, (ast.Import, ast.ImportFrom)) or private or for_types, text


def test_the_front_door_brings_in_a_policy_when_it_is_named_and_no_other() -> None:
    brought = modules_after("import resilience")
    assert not {module for module in brought if module.startswith("resilience.") and "retry" in module}
    brought = modules_after("from resilience import Timeout")
    assert "resilience.timeout" in brought
    assert "resilience.cache" not in brought


def modules_after(program: str) -> set[str]:
    """Modules that *program* brings into a fresh interpreter."""
    script = f"import sys; before = set(sys.modules)\n{program}\nprint(*sorted(set(sys.modules) - before), sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_brings_in_no_event_loop_and_no_third_party() -> None:
    brought = modules_after("import resilience")
    assert "resilience" in brought
    assert (
        brought & {*ASYNC, "tenacity", "opentelemetry", "httpx", "sqlite3", "redis", "psycopg", "pytest"}
        == set()
    )


@pytest.mark.parametrize("name", ["errors", "outcome", "typing"])
def test_the_pure_layer_can_be_imported_alone(name: str) -> None:
    brought = modules_after(f"import resilience.{name}")
    assert brought & {*ASYNC, "tenacity", "opentelemetry"} == set()
