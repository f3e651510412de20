"""What is shown while it runs: a picture in a terminal, else a line now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from resilience.cli._demo._drive import SideState, Stage
from resilience.cli._demo._measure import bins, percentile
from resilience.cli._demo._plan import OBJECTIVE, RATE, SIDES, WORKERS, Side
from resilience.cli._demo._words import NOTHING, seconds, times
from resilience.typing import Seconds

LOOK_BACK: Final[Seconds] = 2.0
"""Over which time the view says how it goes."""

PICTURES: Final[Seconds] = 0.25
LINES: Final[Seconds] = 2.0
BARS: Final = " ▁▂▃▄▅▆▇█"

Playing = Callable[[], Awaitable[None]]


def goodput(state: SideState, now: Seconds) -> float:
    """Return good answers per second, lately."""
    begin = max(0.0, now - LOOK_BACK)
    ended = [due + took for due, good, took in state.takes[-1].records if good] if state.takes else []
    return sum(begin <= end < now for end in ended) / max(0.5, now - begin)


def p99(state: SideState, now: Seconds) -> Seconds | None:
    """Return the 99th percentile of the time until users had an answer, or left, lately."""
    records = state.takes[-1].records if state.takes else []
    return percentile([took for due, _, took in records if now - LOOK_BACK <= due + took], 0.99)


def attempts(state: SideState, dues: Sequence[Seconds], now: Seconds) -> float | None:
    """Return the requests that reached the dependency, for each that users sent, lately."""
    samples = state.takes[-1].samples if state.takes else []
    lately = [sample for sample in samples if sample.at >= now - LOOK_BACK]
    if len(lately) < 2 or not dues or lately[-1].at > dues[-1]:  # the last retries belong to earlier calls
        return None
    sent = sum(lately[0].at <= due < lately[-1].at for due in dues)
    return (lately[-1].attempts - lately[0].attempts) / sent if sent else None


def limit(state: SideState) -> str:
    """Return the limiter's state."""
    if "limit" not in state.now:
        return NOTHING
    return f"{state.now['inflight']} of {state.now['limit']} in use, {state.now['queued']} in line"


def burn(state: SideState) -> str:
    """Return how fast the error budget burns, since the start."""
    rate = state.now.get("burn")
    return NOTHING if rate is None else f"{rate:.1f} x"


def spark(stage: Stage, side: Side) -> str:
    """Return the share of good answers of the act so far, a character for each half second."""
    state = stage.sides[side]
    if not state.takes or stage.act is None:
        return ""
    counts = bins(state.takes[-1], stage.act.seconds)[-60:]
    return "".join(BARS[round(8 * good / offered)] if offered else " " for offered, good in counts)


class Picture:
    """The live view in a terminal."""

    __slots__ = ("_console", "_stage")

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console

    def told(self) -> None:
        """Another phase begins: the next picture shows it."""

    async def watch(self, playing: Playing) -> None:
        """Draw for as long as it plays."""
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            async def draw() -> None:
                while True:
                    live.update(picture(self._stage), refresh=True)
                    await asyncio.sleep(PICTURES)

            drawing = asyncio.create_task(draw())
            try:
                await playing()
            finally:
                drawing.cancel()


def picture(stage: Stage) -> RenderableType:
    """Return the view of this moment."""
    act, now = stage.act, stage.elapsed()
    if act is None:
        return Text(f"{stage.phase} ...")
    number = [each.key for each in stage.plan.acts].index(act.key) + 1
    head = Text.assemble((f"Act {number} of {len(stage.plan.acts)}: {act.title}. ", "bold"), act.says)
    phase_style = "bold red" if act.fault_from <= now < act.fault_to else "green"
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("")
    for side in SIDES:
        table.add_column(side, min_width=32)
    pair = [stage.sides[side] for side in SIDES]
    rows: tuple[tuple[str, Callable[[SideState], str]], ...] = (
        (f"answered, of {RATE:.0f}/s", lambda state: f"{goodput(state, now):.0f}/s"),
        ("latency, p99", lambda state: seconds(p99(state, now))),
        ("attempts per call", lambda state: times(attempts(state, stage.dues, now))),
        ("waiting at the dependency", lambda state: str(state.now.get("waiting", NOTHING))),
        ("its workers", lambda state: f"{state.now.get('workers', NOTHING)} of {WORKERS}"),
        ("circuit breaker", lambda state: str(state.now.get("breaker", NOTHING))),
        ("concurrency limit", limit),
        (f"burn rate, objective {OBJECTIVE:.0%}", burn),
    )
    for name, tell in rows:
        table.add_row(name, *(tell(state) for state in pair))
    table.add_row("good, per half second", *(Text(spark(stage, side), overflow="crop") for side in SIDES))
    bar = ProgressBar(total=act.seconds, completed=min(act.seconds, max(0.0, now)), width=40)
    return Group(head, Text(stage.phase, style=phase_style), bar, table)


class Lines:
    """A line whenever another phase begins, and every two seconds."""

    __slots__ = ("_out", "_stage")

    def __init__(self, stage: Stage, out: TextIO) -> None:
        self._stage = stage
        self._out = out

    def told(self) -> None:
        """Another phase begins: say so at once."""
        self._say()

    async def watch(self, playing: Playing) -> None:
        """Print for as long as it plays."""

        async def say() -> None:
            while True:
                self._say()
                await asyncio.sleep(LINES)

        saying = asyncio.create_task(say())
        try:
            await playing()
        finally:
            saying.cancel()

    def _say(self) -> None:
        print(line(self._stage), file=self._out, flush=True)


def line(stage: Stage) -> str:
    """Return this moment in a line."""
    act, now = stage.act, stage.elapsed()
    if act is None:
        return f"{stage.phase} ...{_processes(stage)}"
    told: list[str] = []
    for side, state in stage.sides.items():
        tried = times(attempts(state, stage.dues, now))
        told.append(f"{side} {goodput(state, now):3.0f}/s, attempts {tried}, burn {burn(state)}")
    since = min(act.seconds, max(0.0, now))
    return f"{act.title} {since:4.1f}/{act.seconds:.0f} s: {stage.phase} | {' | '.join(told)}"


def _processes(stage: Stage) -> str:
    """Return the ids and ports of all processes, when they are ready and before anything happens."""
    if any(state.takes or not state.pids for state in stage.sides.values()):
        return ""
    told = [
        f"{side} {role} pid {pid}" + (f" port {state.ports[role]}" if role in state.ports else "")
        for side, state in stage.sides.items()
        for role, pid in state.pids.items()
    ]
    return f" {', '.join(told)}"
