"""From a plan to an exit code: play it, at most twice, and say what came of it."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from resilience.cli._demo._drive import Stage, play
from resilience.cli._demo._live import Lines, Picture
from resilience.cli._demo._measure import percentile, summary, verdict
from resilience.cli._demo._plan import (
    ATTEMPT_TIMEOUT,
    ATTEMPTS,
    ERROR_SHARE,
    OBJECTIVE,
    PATIENCE,
    RATE,
    SIDES,
    TOTAL_TIMEOUT,
    WORK,
    WORKERS,
    WORKERS_IN_DIP,
    Act,
    Plan,
)
from resilience.cli._demo._report import report
from resilience.cli._demo._table import show_result
from resilience.cli._exits import FAILED, OK, CannotRunError, SignalledError

TRIES: Final = 2
"""On a busy machine one run may fail for reasons that are not the client's; the better one counts."""

WIDTH: Final = 110
"""Columns where there is no terminal that says how many it has."""

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def show(plan: Plan, output: Path, *, as_json: bool, is_plain: bool) -> int:
    """
    Play *plan*, write what came of it to *output*, print it, and return the exit code.

    Raises:
        CannotRunError: The output cannot be written, or a process failed.
        SignalledError: It was told to stop.

    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotRunError(f"cannot write to {output}: {error.strerror}") from None
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    is_live = console.is_terminal and not is_plain and not as_json
    best: tuple[dict[str, Any], Stage] | None = None
    for number in range(1, TRIES + 1):
        stage = Stage(plan)
        watcher = Picture(stage, console) if is_live else Lines(stage, sys.stderr)
        _run(watcher.watch(partial(play, stage, watcher.told)))
        result = _result(stage, number)
        if best is None or len(result["problems"]) < len(best[0]["problems"]):
            best = result, stage
        if not result["problems"]:
            break
        if number < TRIES:
            print(f"Once more, because: {'; '.join(result['problems'])}.", file=sys.stderr)
    assert best is not None  # noqa: S101  # the loop ran
    result, stage = best
    _write(output, result, stage)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show_result(console, result, output)
    return FAILED if result["problems"] else OK


def _run(playing: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, or until a signal asks to stop."""
    caught: list[int] = []

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            caught.append(number)
            if task is not None and len(caught) == 1:
                task.cancel()

        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, stop, number)
        await playing

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        raise SignalledError(caught[0] if caught else signal.SIGINT) from None
    if caught:  # while the last processes were ending
        raise SignalledError(caught[0])


def _result(stage: Stage, number: int) -> dict[str, Any]:
    """Return all figures of a run, as JSON has them."""
    rows: list[tuple[Act, dict[str, Any], dict[str, Any]]] = []
    acts: list[dict[str, Any]] = []
    for index, act in enumerate(stage.plan.acts):
        naive, resilient = (summary(stage.sides[side].takes[index], act) for side in SIDES)
        rows.append((act, naive, resilient))
        acts.append(
            {
                "key": act.key,
                "title": act.title,
                "says": act.says,
                "seconds": round(act.seconds, 3),
                "fault_from": None if act.kind == "none" else round(act.fault_from, 3),
                "fault_to": None if act.kind == "none" else round(act.fault_to, 3),
                "naive": naive,
                "resilient": resilient,
            }
        )
    lags = [lag for side in stage.sides.values() for take in side.takes for lag in take.lags]
    return {
        "settings": {
            "seconds": stage.plan.seconds,
            "seed": stage.plan.seed,
            "requests_per_second": RATE,
            "workers": WORKERS,
            "workers_in_dip": WORKERS_IN_DIP,
            "work_seconds": WORK,
            "error_share": ERROR_SHARE,
            "attempts": ATTEMPTS,
            "attempt_timeout_seconds": ATTEMPT_TIMEOUT,
            "total_timeout_seconds": TOTAL_TIMEOUT,
            "patience_seconds": PATIENCE,
            "objective": OBJECTIVE,
        },
        "tries": number,
        "lag_p99_seconds": percentile(lags, 0.99),
        "acts": acts,
        "problems": verdict(rows),
    }


def _write(output: Path, result: dict[str, Any], stage: Stage) -> None:
    files = {
        "result.json": json.dumps(result, indent=2) + "\n",
        "report.html": report(result, stage),
        **{f"{side}.prom": stage.sides[side].exposition for side in SIDES},
    }
    try:
        for name, text in files.items():
            (output / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotRunError(f"cannot write to {output}: {error.strerror}") from None
