"""What must never be committed, and what must stay in step."""

import importlib.metadata
import io
import os
import re
import subprocess
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "resilience-policies"
# Spelled in pieces, so that this file does not hold them.
DOT = r"\."
REGISTRIES = "|".join(
    (f"py{'pi'}{DOT}org", f"python{'hosted'}{DOT}org", f"registry{DOT}np{'mjs'}", f"deb{DOT}{'deb'}ian")
)
MACHINES = "|".join(("/ro" + "ot/", "/wo" + r"rk/[.\w]", "/ho" + r"me/\w+/", "/Us" + r"ers/\w+/"))
LOCKS = {"uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "package-lock.json"}
DIRECTIVE = re.compile(
    r"noqa(: *[A-Z]+[0-9]+(, *[A-Z]+[0-9]+)*)?"
    r"|type: *ignore(\[[\w\-, ]+\])?"
    r"|pyright: *ignore(\[\w+(, *\w+)*\])?"
    r"|pragma: *no *(cover|branch|mutate)"
)


def committed() -> list[Path]:
    """The files that are, or are about to be, committed."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git work tree")
    return sorted(path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file())


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_no_file_names_a_package_registry_or_a_path_of_a_machine() -> None:
    found = []
    for path in committed():
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(f"{REGISTRIES}|{MACHINES}", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_no_lock_file_is_committed() -> None:
    assert [path for path in committed() if path.name in LOCKS] == []


def without_reason(source: str) -> list[int]:
    """The lines of *source* that silence a tool without saying why."""
    silent = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and re.match(rf"#\s*({DIRECTIVE.pattern})", token.string):
            reason = DIRECTIVE.sub("", token.string).strip("# -:,")
            if len(reason) < 5:
                silent.append(token.start[0])
    return silent


def test_whatever_silences_a_tool_says_why() -> None:
    found = []
    for path in committed():
        if path.suffix == ".py":
            found += [
                f"{path.relative_to(ROOT)}:{line}"
                for line in without_reason(path.read_text(encoding="utf-8"))
            ]
    assert not found, "\n".join(found)


def test_a_silenced_tool_without_a_reason_is_noticed() -> None:
    mark = "no" + "qa"
    assert without_reason(f"x = 1  # {mark}: F401\n") == [1]
    assert without_reason("x = 1  # type: " + "ignore[misc]\n") == [1]
    assert without_reason(f"x = 1  # type: {'ignore'}[misc]  # {mark}: F401\n") == [1]
    assert without_reason(f"x = 1  # {mark}: F401, E501  # the table reads better so\n") == []


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_every_direct_dependency_is_pinned() -> None:
    settings = project()
    groups = [
        entry for group in settings["dependency-groups"].values() for entry in group if isinstance(entry, str)
    ]
    extras = [entry for extra in settings["project"]["optional-dependencies"].values() for entry in extra]
    wanted = {canonical(entry) for entry in [*settings["project"]["dependencies"], *groups, *extras]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert wanted - {canonical(line) for line in lines} == {PACKAGE}


def canonical(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else requirement


def test_changelog_fragments_are_of_a_known_kind() -> None:
    kinds = {kind["directory"] for kind in project()["tool"]["towncrier"]["type"]}
    names = {path.name for path in (ROOT / "changelog.d").iterdir()} - {"README.md"}
    assert [
        name for name in names if not re.fullmatch(rf"(\d+|\+[\w-]+)\.({'|'.join(kinds)})(\.\d+)?\.md", name)
    ] == []


def test_scripts_can_be_started() -> None:
    programs = [path for path in committed() if path.read_bytes().startswith(b"#!")]
    assert ROOT / ".ci" / "run" in programs
    assert [path for path in programs if not os.access(path, os.X_OK)] == []


def test_the_package_under_test_is_the_source_tree_as_a_wheel() -> None:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from the source tree")
    installed = {file.as_posix(): Path(file.locate()) for file in files if file.parts[0] == "resilience"}
    installed = {name: path for name, path in installed.items() if "__pycache__" not in name}
    sources = {
        path.relative_to(ROOT / "src").as_posix(): path
        for path in (ROOT / "src").rglob("*")
        if path.is_file()
    }
    sources = {name: path for name, path in sources.items() if "__pycache__" not in name}
    assert "resilience/py.typed" in installed
    assert sorted(installed) == sorted(sources), "run `make test`, which installs the sources anew"
    assert [name for name, path in sources.items() if path.read_bytes() != installed[name].read_bytes()] == []
