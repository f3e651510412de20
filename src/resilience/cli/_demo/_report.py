"""The report: one page of HTML that needs nothing else, in dark and light."""

import json
from collections.abc import Callable
from html import escape
from typing import Any

from resilience.cli._demo._charts import Chart, Point, Series, svg
from resilience.cli._demo._drive import Stage
from resilience.cli._demo._measure import BIN, Take, bins, percentile
from resilience.cli._demo._plan import PATIENCE, RATE, SIDES, Act
from resilience.cli._demo._style import STYLE
from resilience.cli._demo._words import ROWS, cells, conclusion, notes, seconds


def report(result: dict[str, Any], stage: Stage) -> str:
    """Return the page."""
    acts = [_act(stage, number, act) for number, act in enumerate(stage.plan.acts)]
    settings = result["settings"]
    setting = (
        f"On each side {settings['requests_per_second']:.0f} requests a second, at the same times, to a "
        f"service that asks a dependency with {settings['workers']} workers, which need "
        f"{seconds(settings['work_seconds'])} for a request. Users leave after "
        f"{seconds(settings['patience_seconds'])}. Both clients make up to {settings['attempts']} attempts, "
        f"each of {seconds(settings['attempt_timeout_seconds'])}: the naive one whenever one failed, the "
        "resilient one if its retry budget, its circuit breaker and its concurrency limit let it. The "
        "dependency finishes what it was asked, also for callers who have left."
    )
    kind = "conclusion bad" if result["problems"] else "conclusion"
    # What would end the element is spelled in another way that JSON allows.
    data = json.dumps(result, indent=1).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>resilience demo</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            "<h1>One outage, two clients</h1>",
            f'<p class="soft">{escape(setting)}</p>',
            f'<p class="{kind}">{escape(conclusion(result))}</p>',
            *(f"<p><strong>Note:</strong> {escape(note)}</p>" for note in notes(result)),
            _table(result),
            _keys(),
            *acts,
            f'<script type="application/json" id="result">{data}</script>',
            "</main>\n</body>\n</html>\n",
        ]
    )


def _table(result: dict[str, Any]) -> str:
    names = '<th scope="col">act</th><th scope="col" class="left">client</th>'
    head = names + "".join(f'<th scope="col">{escape(name)}</th>' for name in ROWS)
    rows: list[str] = []
    for act in result["acts"]:
        for side in SIDES:
            first = (
                f'<th scope="rowgroup" rowspan="2">{escape(act["title"])}</th>' if side == SIDES[0] else ""
            )
            values = "".join(f"<td>{escape(cell)}</td>" for cell in cells(act, side))
            names = f'data-act="{act["key"]}" data-side="{side}"'
            rows.append(f'<tr {names}>{first}<th scope="row">{side}</th>{values}</tr>')
    objective = result["settings"]["objective"]
    caption = "Figures of this one run"
    meaning = (
        "p99: of the requests that were answered well. Wasted work: share of the dependency's work whose "
        f"result no user got. Budget spent: 1.0 x is what an objective of {objective:.0%} leaves for the act."
    )
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="soft">{escape(meaning)}</p>'
    )


def _keys() -> str:
    names = (("naive", "naive"), ("resilient", "resilient"), ("offered", "sent by users"))
    line = '<svg viewBox="0 0 48 10" aria-hidden="true"><line class="line {}" x2="48" y1="5" y2="5"/></svg>'
    keys = (f'<span class="key">{line.format(name)}{words}</span>' for name, words in names)
    return f"<p>{''.join(keys)}</p>"


Draw = Callable[[Take], list[Point]]


def _act(stage: Stage, number: int, act: Act) -> str:
    takes = {side: stage.sides[side].takes[number] for side in SIDES}
    offered = Series("offered", _per_second(act, 0)(takes["naive"]))

    def both(draw: Draw) -> list[Series]:
        # The dashed line last: where both go the same way, one is seen through the gaps of the other.
        return [Series(side, draw(takes[side])) for side in reversed(SIDES)]

    charts = [
        ("goodput", "Answered in time, requests per second", [offered, *both(_per_second(act, 1))], RATE),
        ("attempts", "What reaches the dependency, requests per second", [offered, *both(_attempts)], RATE),
        (
            "latency",
            "Seconds until an answer, or until users leave, 95th percentile",
            both(_latency(act)),
            PATIENCE,
        ),
        ("waiting", "Waiting at the dependency, requests", both(_waiting), 10.0),
    ]
    if act.kind != "none":
        title = "Concurrency limit of the resilient client, and slots in use (dotted)"
        charts += [
            ("limit", title, _limit(takes["resilient"]), 10.0),
            ("burn", "Burn rate of the error budget since the start", both(_burn), 1.0),
        ]
    drawn = (_figure(act, key, title, series, top) for key, title, series, top in charts)
    said = f"{act.says} {_states(takes['resilient'])}".strip()
    return (
        f'<section aria-labelledby="{act.key}">\n<h2 id="{act.key}">{number + 1}. {escape(act.title)}</h2>\n'
        f'<p class="soft">{escape(said)}</p>\n<div class="charts">\n{"".join(drawn)}</div>\n</section>'
    )


def _figure(act: Act, key: str, title: str, series: list[Series], least_top: float) -> str:
    chart = Chart(
        key=f"{act.key}-{key}",
        title=f"{act.title}: {title}",
        seconds=act.seconds,
        series=series,
        fault=None if act.kind == "none" else (act.fault_from, act.fault_to),
        least_top=least_top,
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg(chart)}</figure>\n"


def _per_second(act: Act, which: int) -> Draw:
    """Return what draws the requests (0) or the good answers (1) of each bin."""

    def draw(take: Take) -> list[Point]:
        return [
            ((number + 0.5) * BIN, count[which] / BIN) for number, count in enumerate(bins(take, act.seconds))
        ]

    return draw


def _attempts(take: Take) -> list[Point]:
    points: list[Point] = []
    before = None
    for sample in take.samples:
        if before is None:
            before = sample
        elif sample.at - before.at >= 0.9 * BIN:
            rate = (sample.attempts - before.attempts) / (sample.at - before.at)
            points.append(((sample.at + before.at) / 2, rate))
            before = sample
    return points


def _latency(act: Act) -> Draw:
    def draw(take: Take) -> list[Point]:
        points: list[Point] = []
        for number in range(len(bins(take, act.seconds))):
            begin = number * BIN
            took = percentile([took for due, _, took in take.records if begin <= due < begin + BIN], 0.95)
            if took is not None:
                points.append((begin + BIN / 2, took))
        return points

    return draw


def _waiting(take: Take) -> list[Point]:
    return [(sample.at, sample.waiting) for sample in take.samples]


def _limit(take: Take) -> list[Series]:
    return [
        Series("in-use", [(each.at, each.inflight) for each in take.samples if each.inflight is not None]),
        Series("resilient", [(each.at, each.limit) for each in take.samples if each.limit is not None]),
    ]


def _burn(take: Take) -> list[Point]:
    return [(sample.at, sample.burn) for sample in take.samples if sample.burn is not None]


def _states(take: Take) -> str:
    """Return how the circuit of the resilient client changed."""
    said: list[str] = []
    before = "closed"
    for sample in take.samples:
        if sample.breaker is not None and sample.breaker != before:
            said.append(f"{sample.breaker} at {sample.at:.1f} s")
            before = sample.breaker
    return f"The resilient client's circuit: {', '.join(said)}." if said else ""
