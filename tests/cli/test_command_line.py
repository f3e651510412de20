import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cli.conftest import command

from resilience.cli import _demo, main
from resilience.cli._demo._plan import Plan


def said(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **settings
    )


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "demo" in out
    assert "Exit codes: 0" in out


def test_help_of_the_demo_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    for option in ("--json", "--no-tty", "--output", "--duration", "--seed", "--port"):
        assert option in out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"resilience {importlib.metadata.version('resilience-policies')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["demo", "--unknown"],
        ["demo", "--duration", "11.9"],
        ["demo", "--duration", "601"],
        ["demo", "--duration", "nan"],
        ["demo", "--duration", "long"],
        ["demo", "--seed", "x"],
        ["demo", "--port", "80"],
        ["demo", "--port", "65535"],
        ["demo", "--port", "x"],
    ],
)
def test_a_wrong_option_is_said_and_ends_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_options_become_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilience.cli._demo import _command

    asked = []
    monkeypatch.setattr(_command, "show", lambda *given, **named: asked.append((given, named)) or 0)
    given = ["--duration", "20", "--seed", "7", "--port", "8000", "--output", "here", "--json", "--no-tty"]
    assert main(["demo", *given]) == 0
    plan = Plan(seconds=20.0, seed=7, port=8000)
    assert asked == [((plan, Path("here")), {"as_json": True, "is_plain": True})]


@pytest.mark.parametrize("missing", ["rich", "uvicorn", "opentelemetry.exporter.prometheus"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(name)
        return find_spec(name)

    monkeypatch.setattr(_demo, "find_spec", found)
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert f"resilience demo: {_demo.NEEDED[missing]} not installed" in err
    assert "resilience-policies[cli]" in err


def test_output_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = said("demo", "--no-tty", "--output", str(tmp_path / "file" / "out"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("resilience demo: cannot write to ")


def test_a_busy_port_is_said_and_ends_with_two(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = said("demo", "--no-tty", "--port", str(port), "--output", str(tmp_path), timeout=50)
    assert result.returncode == 2
    assert f"cannot listen on port {port}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_package_does_not_bring_the_command_line_and_that_brings_nothing_heavy() -> None:
    script = (
        "import sys, json, resilience; first = 'resilience.cli' in sys.modules; import resilience.cli; "
        "print(json.dumps([first, [name for name in ('asyncio', 'httpx', 'rich', 'uvicorn', 'opentelemetry') "
        "if name in sys.modules]]))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == [False, []]
