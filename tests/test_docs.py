"""What the documentation says, runs: snippets, docstring examples, examples/, links and generated pages."""

import ast
import asyncio
import dataclasses
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import resilience
from resilience.telemetry._events import EVENT

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if path.name != "CHANGELOG.md"
)
EXAMPLES = sorted([*ROOT.glob("examples/*.py"), *ROOT.glob("examples/*/__main__.py")])
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*)$")
DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXAMPLE_SECONDS = 50


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    info: str
    line: int
    text: str
    is_example: bool

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def runs(self) -> bool:
        return self.language in {"python", "pycon"} and not self.is_example and "no-run" not in self.info


def blocks(page: str) -> Iterator[Block]:
    lines = iter(enumerate(page.splitlines(), 1))
    before = ""
    for number, line in lines:
        opening = FENCE.match(line)
        if opening:
            inside = []
            for _, inner in lines:
                if inner.strip() == opening["fence"]:
                    break
                inside.append(inner)
            text = textwrap.dedent("\n".join(inside) + "\n")
            yield Block(opening["info"].strip(), number + 1, text, before.startswith("<!-- example:"))
        before = line.strip() or before


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run_python(block: Block, filename: str, namespace: dict[str, object], runner: asyncio.Runner) -> None:
    source = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's own line
    code = compile(source, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, namespace))
    else:
        exec(code, namespace)


def run_doctest(text: str, filename: str, line: int, namespace: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(text, namespace, filename, filename, line - 1)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=DOCTEST)
    runner.run(test, out=said.append, clear_globs=False)
    namespace.update(test.globs)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_snippets_of_a_page_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        for block in blocks(page.read_text(encoding="utf-8")):
            if not block.runs:
                continue
            if block.language == "pycon":
                run_doctest(block.text, str(page), block.line, namespace)
            else:
                run_python(block, str(page), namespace, runner)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_snippet_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if "no-run" in block.info:
            assert re.fullmatch(r"python no-run: \S.+", block.info), f"{name(page)}:{block.line}"


def with_doctests() -> Iterator[str]:
    for root in map(Path, resilience.__path__):
        for path in sorted(root.rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(root).with_suffix("").parts
                yield ".".join(["resilience", *(part for part in parts if part != "__init__")])


@pytest.mark.parametrize("module_name", list(with_doctests()))
def test_the_examples_in_docstrings_run(
    module_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_name)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=DOCTEST)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_runs_to_its_end(example: Path, tmp_path: Path) -> None:
    program = example.parent if example.name == "__main__.py" else example
    result = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def prose(page: str) -> str:
    """The page without its code."""
    lines, inside = [], ""
    for line in page.splitlines():
        fence = FENCE.match(line)
        if inside:
            inside = "" if line.strip() == inside else inside
        elif fence:
            inside = fence["fence"]
        else:
            lines.append(re.sub(r"`[^`]*`", "`code`", line))
    return "\n".join(lines)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as the site's builder makes them."""
    found = set()
    for match in re.finditer(
        r"^ {0,3}(?:```|~~~).*?^ {0,3}(?:```|~~~)|^#+ ([^\n]+)$", page, re.DOTALL | re.MULTILINE
    ):
        if match[1]:
            heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_the_generated_pages_are_in_step_with_the_code() -> None:
    script = ROOT / "scripts" / "docs.py"
    result = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def settings_of(policy: str) -> dict[str, object]:
    """The defaults of what may be set on *policy*; MISSING for what has none."""
    module = importlib.import_module(f"resilience.{policy}._settings")
    named = {"retry_budget": "RatioSettings", "throttle": "AdaptiveThrottleSettings"}
    camel = "".join(part.capitalize() for part in policy.split("_"))
    return {
        field.name: field.default
        for field in dataclasses.fields(getattr(module, named.get(policy, f"{camel}Settings")))
    }


def table_of_settings(page: str, heading: str = "## Settings.*", column: str = "default") -> dict[str, str]:
    """What the first table after a heading says in its *column*, by setting."""
    section = re.split(rf"^{heading}$", page, maxsplit=1, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", re.split(r"^## ", section, flags=re.MULTILINE)[0], re.MULTILINE)
    assert table is not None
    rows = [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in table[0].splitlines()]
    place = rows[0].index(column)
    return {name: row[place] for row in rows[2:] for name in re.findall(r"`(\w+)`", row[0])}


POLICIES = sorted(path.parent.name for path in ROOT.glob("src/resilience/*/_settings.py"))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_table_of_settings_has_every_setting_with_its_default(policy: str) -> None:
    page = (ROOT / "docs" / "reference" / f"{policy}.md").read_text(encoding="utf-8")
    table = table_of_settings(page)
    settings = settings_of(policy)
    assert settings.keys() - table.keys() == set()
    for name, said in table.items():
        # A default in words, such as "the budget of the name", is left to the reader.
        text = re.sub(r"(?<=\d) (?=\d)", "", said.strip("`"))
        try:
            default = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue
        if name in settings:
            assert (name, settings[name]) == (name, default)


def defaults_of(thing: Callable[..., object]) -> dict[str, object]:
    """The arguments that need not be given, with their defaults."""
    parameters = inspect.signature(thing).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


WHAT_SERVERS_SAY = {"Quota", "RateLimitFields"}  # they have defaults, but nobody sets them


def defaults_by_heading() -> dict[str, dict[str, object]]:
    """Every default of the package, by the heading under which it is explained."""
    found: dict[str, dict[str, object]] = {"quantile": defaults_of(resilience.hedge.Quantile)}
    for policy in POLICIES:
        for name, thing in vars(importlib.import_module(f"resilience.{policy}._settings")).items():
            if name.endswith("Settings") and inspect.isclass(thing):
                word = name.removesuffix("Settings")
                heading = f"RetryBudget.{word.lower()}" if policy == "retry_budget" else word
                found[heading] = defaults_of(thing)
    for module in (resilience.limits, resilience.rates, resilience.backoff):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and name not in WHAT_SERVERS_SAY and defaults_of(thing):
                topic = module.__name__.rpartition(".")[2]
                heading = "Backoff" if topic == "backoff" else f"{topic}.{name}"
                found.setdefault(heading, {}).update(defaults_of(thing))
    return found


def assert_says_defaults(table: dict[str, str], defaults: dict[str, object]) -> None:
    assert table.keys() == defaults.keys()
    for name, default in defaults.items():
        if default is None or isinstance(default, (int, float, str)):  # others are told in words
            said = re.match(r"`?([^`:]+)", table[name])
            assert said is not None
            value = ast.literal_eval(said[1])
            assert (name, value, type(value)) == (name, default, type(default))


DEFAULTS = ROOT / "docs" / "explanation" / "defaults.md"


@pytest.mark.parametrize(("heading", "defaults"), defaults_by_heading().items())
def test_the_page_of_defaults_has_every_default(heading: str, defaults: dict[str, object]) -> None:
    page = DEFAULTS.read_text(encoding="utf-8")
    assert_says_defaults(table_of_settings(page, f"## {re.escape(heading)}"), defaults)


def test_the_page_of_defaults_has_what_the_golden_path_sets_differently() -> None:
    total, *parts, attempt = (policy.settings for policy in resilience.Pipeline.standard("page").policies)
    differing = {"total_timeout": total.duration, "attempt_timeout": attempt.duration}
    for part in parts:
        for name, default in defaults_of(type(part)).items():
            if getattr(part, name) != default:
                differing[name] = getattr(part, name)
    page = DEFAULTS.read_text(encoding="utf-8")
    assert_says_defaults(table_of_settings(page, r"## Pipeline\.standard"), differing)


def test_the_page_of_defaults_has_the_numbers_inside_aimd() -> None:
    inside = vars(importlib.import_module("resilience.limits._aimd"))
    numbers = {name: value for name, value in inside.items() if name.isupper()}
    table = table_of_settings(
        DEFAULTS.read_text(encoding="utf-8"), "### The numbers inside it", column="value"
    )
    assert_says_defaults(table, numbers)


@pytest.mark.parametrize("limit", ["Aimd", "Vegas", "Gradient2", "Headroom"])
def test_the_page_of_limits_has_every_setting_with_its_default(limit: str) -> None:
    page = (ROOT / "docs" / "reference" / "limits.md").read_text(encoding="utf-8")
    assert_says_defaults(table_of_settings(page, f"## {limit}"), defaults_by_heading()[f"limits.{limit}"])


def test_the_page_of_events_names_every_event_and_attribute() -> None:
    page = (ROOT / "docs" / "how-to" / "events.md").read_text(encoding="utf-8")
    names: set[str] = set()
    for path in ROOT.glob("src/resilience/**/*.py"):
        names |= set(
            re.findall(r'emit\(\s*"(resilience\.[a-z_]+\.[a-z_]+)"', path.read_text(encoding="utf-8"))
        )
    assert {"resilience.retry.exhausted", "resilience.pipeline.reload"} <= names
    assert names <= set(EVENT), "an event that is not in the registry never becomes a log record"
    of_records = {"resilience.policy.name", "resilience.slo.name", "resilience.event.suppressed"}
    for event in (EVENT[name] for name in names.copy()):
        names |= {*event.attributes, *(key for key, _ in event.optional)} - of_records
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_blocks_are_found_with_their_lines() -> None:
    page = "# A\n\n```python\nx = 1\n```\n\n- item\n\n  ```python no-run: needs a server\n  y\n  ```\n"
    first, second = blocks(page)
    assert (first.line, first.text, first.runs) == (4, "x = 1\n", True)
    assert (second.text, second.runs) == ("y\n", False)


def test_an_anchor_is_made_of_one_heading_and_of_none_in_code() -> None:
    page = "# One `word`\n\n```python\n# no heading\n```\n\n## What's [next](a.md)?\n"
    assert anchors(page) == {"one-word", "whats-next"}


def test_a_snippet_may_await_and_a_later_one_sees_its_names() -> None:
    namespace: dict[str, object] = {}
    with asyncio.Runner() as runner:
        run_python(
            Block("python", 1, "import asyncio\nx = await asyncio.sleep(0, 1)\n", False),
            "page",
            namespace,
            runner,
        )
        run_python(Block("python", 4, "y = x + 1\n", False), "page", namespace, runner)
    run_doctest(">>> y\n2\n>>> z = 3\n", "page", 7, namespace)
    assert namespace["z"] == 3


def test_a_snippet_that_fails_is_noticed() -> None:
    with asyncio.Runner() as runner, pytest.raises(ZeroDivisionError):
        run_python(Block("python", 1, "1 / 0\n", False), "page", {}, runner)
    with pytest.raises(AssertionError, match="Expected"):
        run_doctest(">>> 1\n2\n", "page", 1, {})
