"""What examples/adaptive.py draws and says; that every example runs to its end is in test_docs.py."""

import re
import runpy
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "adaptive.py"
ROW = re.compile(r"^ *(\d+\.\d\d) s +(\d+) [=| ]{40}" + r" +(\d+)" * 5 + "$", re.MULTILINE)


@pytest.fixture(scope="module")
def adaptive() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE), run_name="adaptive"))


def test_a_quick_run_draws_a_line_per_quarter_second_and_counts_each_call_once() -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick"], capture_output=True, text=True, timeout=30, check=True
    )
    rows = ROW.findall(result.stdout)
    assert [row[0] for row in rows] == [f"{0.25 * number:.2f}" for number in range(1, 13)]
    assert "Of 600 calls" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_an_interrupt_ends_it_without_a_traceback() -> None:
    # A shell may have started the tests in the background, with interrupts ignored.
    program = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(ROW.match(line) for line in process.stdout)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1], errors) == (130, "stopped", "")


@pytest.mark.parametrize("seconds", ["0", "nan", "61"])
def test_a_length_out_of_range_is_refused(seconds: str) -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--seconds", seconds], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "--seconds must be from 1 to 60" in result.stderr


@pytest.mark.parametrize(
    "limit, capacity, drawn", [(5, 3, "==|=="), (1, 3, "= |"), (3, 3, "==|"), (99, 3, "==|" + "=" * 37)]
)
def test_a_bar_has_its_mark_at_the_capacity(adaptive, limit: int, capacity: int, drawn: str) -> None:
    assert adaptive.bar(limit, capacity) == drawn.ljust(40)


def test_the_verdict_is_computed_even_where_the_limiter_did_worse(adaptive) -> None:
    nothing = Counter[str]()
    slices = [
        adaptive.Slice(capacity, limit, nothing, nothing)
        for capacity, limit in ((8, 10), (8, 14), (3, 6), (12, 30))
    ]
    limited = Counter(answered=40, refused=50, late=10)
    said = adaptive.verdict(slices, limited, Counter(answered=80, late=20))
    assert "8 workers: 12.0, that is 1.5 for each" in said
    assert "3 workers: 6.0, that is 2.0 for each" in said
    assert "12 workers: 30.0, that is 2.5 for each" in said
    assert "Of 100 calls 40% were answered in time with the limiter" in said
    assert "Without it 80% were answered in time" in said
    assert "had time for 72%." in said  # (160 + 160 + 60 + 200) of 800: no more than is asked for
