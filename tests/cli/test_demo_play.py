"""The demo with real processes, too short to show anything: that everything is told, and at the right time."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cli.conftest import all_have_ended

from resilience.cli import _main, main
from resilience.cli._demo import _command, _crew, _drive
from resilience.cli._demo._drive import Stage, play
from resilience.cli._demo._measure import Sample, Take
from resilience.cli._demo._plan import SIDES, WORKERS, WORKERS_IN_DIP, Plan
from resilience.cli._exits import CannotRunError


@pytest.fixture(scope="module")
def played() -> tuple[Stage, list[str]]:
    stage, phases = Stage(Plan(seconds=3.0)), []
    asyncio.run(play(stage, lambda: phases.append(stage.phase)))
    return stage, phases


def test_both_sides_get_the_same_requests_at_the_same_times(played) -> None:
    naive, resilient = (played[0].sides[side].takes for side in SIDES)
    for mine, theirs, act in zip(naive, resilient, played[0].plan.acts, strict=True):
        dues = sorted(due for due, _, _ in mine.records)
        assert dues == sorted(due for due, _, _ in theirs.records)
        assert len(dues) == len(mine.lags) > 0
        assert 0 <= dues[0] < dues[-1] < act.seconds


def test_the_workers_go_and_come_back(played) -> None:
    dip = played[0].plan.acts[1]
    for side in SIDES:
        seen = [(sample.at, sample.workers) for sample in played[0].sides[side].takes[1].samples]
        assert seen[0][1] == seen[-1][1] == WORKERS
        gone = [at for at, count in seen if count == WORKERS_IN_DIP]
        assert gone
        assert dip.fault_from <= gone[0]


def test_every_phase_is_told(played) -> None:
    phases = dict.fromkeys(played[1])
    assert list(phases)[:2] == ["all processes are ready", "all is well"]
    assert f"{WORKERS - WORKERS_IN_DIP} of {WORKERS} workers are gone" in phases
    assert list(phases)[-1] == "collecting metrics"


def test_the_metrics_of_both_services_are_there(played) -> None:
    for side in SIDES:
        families = {each.name for each in text_string_to_metric_families(played[0].sides[side].exposition)}
        assert "resilience_sli_events" in families
        assert ("resilience_retry_calls" in families) == (side == "resilient")


def test_no_process_is_left(played) -> None:
    assert all_have_ended(
        [pid for state in played[0].sides.values() for pid in state.pids.values()], seconds=0.0
    )


def test_a_process_that_stands_still_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drive, "ANSWER", 0.5)
    monkeypatch.setattr(_crew, "LEAVE", 0.5)
    stage = Stage(Plan(seconds=1.0))

    def told() -> None:
        if stage.phase == "all processes are ready":
            os.kill(stage.sides["naive"].pids["users"], signal.SIGSTOP)

    with pytest.raises(CannotRunError, match="the naive side's users did not answer"):
        asyncio.run(play(stage, told))
    assert all_have_ended([pid for state in stage.sides.values() for pid in state.pids.values()], seconds=0.0)


def fill(stage: Stage, naive: float, resilient: float) -> None:
    """As if it had been played: requests due at once a tenth of a second, the first *share* of them good."""
    for side, share in (("naive", naive), ("resilient", resilient)):
        stage.sides[side].exposition = f"{side}_up 1.0\n"
        for act in stage.plan.acts:
            dues = [number / 10 for number in range(round(act.seconds * 10))]
            records = [(due, due < share * act.seconds, 0.1) for due in dues]
            sample = Sample(at=0.5, workers=WORKERS)
            stage.sides[side].takes.append(
                Take(records=records, lags=[0.0], samples=[sample], attempts=len(dues), done=len(dues))
            )


@pytest.mark.parametrize(
    ("tries", "code", "shown"),
    [
        ([(0.2, 1.0)], 0, 1),
        ([(0.2, 0.2), (0.2, 1.0)], 0, 2),
        ([(0.2, 0.3), (1.0, 0.2)], 1, 1),  # the first was the better one
    ],
)
def test_the_better_of_two_tries_counts(
    tries,
    code: int,
    shown: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = list(tries)

    async def fake(stage: Stage, told) -> None:
        told()
        fill(stage, *left.pop(0))

    monkeypatch.setattr(_command, "play", fake)
    assert main(["demo", "--json", "--output", str(tmp_path / "new" / "out")]) == code
    out, errors = capsys.readouterr()
    result = json.loads(out)
    assert (left, result["tries"], bool(result["problems"])) == ([], shown, code == 1)
    assert errors.count("Once more, because") == len(tries) - 1
    written = tmp_path / "new" / "out"
    assert json.loads((written / "result.json").read_text(encoding="utf-8")) == result
    assert {path.name for path in written.iterdir()} == {
        "naive.prom", "report.html", "resilient.prom", "result.json",
    }  # fmt: skip
    assert (written / "naive.prom").read_text(encoding="utf-8") == "naive_up 1.0\n"


def test_a_signal_at_the_very_end_is_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fake(stage: Stage, told) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:  # as when processes are let end whatever happens
            fill(stage, 0.2, 1.0)

    monkeypatch.setattr(_command, "play", fake)
    assert main(["demo", "--output", str(tmp_path)]) == 128 + signal.SIGTERM
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_json_there_is_a_table_and_a_conclusion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fake(stage: Stage, told) -> None:
        fill(stage, 0.2, 1.0)

    monkeypatch.setattr(_command, "play", fake)
    assert main(["demo", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"naive .*not in \d", out)
    assert "After the dip the resilient client was back at once" in out
    assert "\x1b" not in out


def test_an_interrupt_before_anything_runs_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given, **named) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "show", interrupted)
    assert _main.main(["demo"]) == 130
    assert capsys.readouterr().err == "stopped\n"
