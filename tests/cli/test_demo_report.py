"""The report of a made-up run: that it is whole, needs nothing else, and says what the JSON says."""

import json
import re
from html.parser import HTMLParser
from random import Random

import pytest
from rich.console import Console

from resilience.cli._demo._charts import Chart, Series, step, svg
from resilience.cli._demo._command import _result
from resilience.cli._demo._drive import SideState, Stage
from resilience.cli._demo._live import attempts, line, picture
from resilience.cli._demo._measure import Sample, Take
from resilience.cli._demo._plan import SIDES, Act, Plan
from resilience.cli._demo._report import report
from resilience.cli._demo._table import show_result
from resilience.cli._demo._words import cells, conclusion, notes, share

VOID = {"meta", "line", "rect", "polyline"}


class Page(HTMLParser):
    """Keep the elements, and complain about one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: dict[tuple[str, str], list[str]] = {}
        self.data = ""
        self._row: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        named = dict(attrs)
        if tag == "tr":
            self._row = self.rows.setdefault((named["data-act"], named["data-side"]), []) if named else None

    def handle_startendtag(self, tag: str, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td" and self._row is not None:
            self._row.append(data)
        if self.open and self.open[-1] == "script":
            self.data += data


def made_up(act: Act, chance: Random, well: float) -> Take:
    due, records = 0.0, []
    while (due := due + chance.expovariate(60)) < act.seconds:
        records.append((due, chance.random() < well, chance.uniform(0.05, 2.0)))
    samples = [
        Sample(at=at / 4, attempts=15 * at, done=10 * at, waiting=at, workers=8, burn=1.0)
        for at in range(round(act.seconds * 4))
    ]
    return Take(records=records, lags=[0.001], samples=samples, attempts=2 * len(records), done=len(records))


@pytest.fixture
def stage() -> Stage:
    stage, chance = Stage(Plan(seconds=20.0)), Random(1)
    for side, well in zip(SIDES, (0.3, 0.97), strict=True):
        stage.sides[side].takes = [made_up(act, chance, well) for act in stage.plan.acts]
    for sample in stage.sides["resilient"].takes[1].samples:
        sample.breaker = "open" if 3.0 <= sample.at < 4.0 else "closed"
        sample.limit, sample.inflight = 10, 5
    return stage


@pytest.fixture
def page(stage: Stage) -> str:
    return report(_result(stage, 1), stage)


def test_every_element_is_closed(page: str) -> None:
    assert Page(page).open == []


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?:|//\w|url\(|@import|<link|<img|<iframe", page)
    loading = {"src", "href", "srcset", "action", "xlink:href"}
    assert [element for element in Page(page).elements if loading & element[1].keys()] == []


def test_there_is_a_dark_and_a_light_theme_with_the_same_colours_named(page: str) -> None:
    light, dark = re.findall(r":root \{([^}]*)\}", page)
    names = [set(re.findall(r"--[\w-]+", theme)) for theme in (light, dark)]
    assert names[0] == names[1] >= {"--paper", "--ink", "--naive", "--resilient"}
    assert "color-scheme: light dark" in light
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= names[0]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_lines_stand_out_from_what_is_behind_them(page: str, theme: int) -> None:
    colours = dict(re.findall(r"(--[\w-]+): (#\w{6})", re.findall(r":root \{([^}]*)\}", page)[theme]))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    for behind in ("--paper", "--panel", "--fault"):
        assert contrast("--ink", behind) >= 7
        for name in ("--naive", "--resilient", "--offered"):
            assert contrast(name, behind) >= 3, (name, behind)
    for behind in ("--paper", "--panel"):
        assert contrast("--soft", behind) >= 4.5


def test_every_drawing_has_a_title_and_says_what_it_shows(page: str) -> None:
    elements = Page(page).elements
    ids = [named["id"] for _, named in elements if "id" in named]
    assert len(ids) == len(set(ids))
    drawings = [named for tag, named in elements if tag == "svg" and "aria-hidden" not in named]
    assert len(drawings) == 4 + 6 + 6
    for named in drawings:
        assert named["role"] == "img"
        assert set(str(named["aria-labelledby"]).split()) <= set(ids)
    assert re.search(r"<desc[^>]*>.*naive: on average .* before the fault", page)


def test_the_table_has_the_figures_of_the_json_in_it_and_of_the_file(page: str, stage: Stage) -> None:
    found = Page(page)
    result = json.loads(found.data)
    assert result == json.loads(json.dumps(_result(stage, 1)))
    assert found.rows == {
        (act["key"], side): list(cells(act, side)) for act in result["acts"] for side in SIDES
    }


def test_what_the_circuit_did_is_told(page: str) -> None:
    assert "circuit: open at 3.0 s, closed at 4.0 s." in page


def test_the_table_in_the_terminal_has_the_same_figures(stage: Stage, tmp_path) -> None:
    console, result = Console(width=120), _result(stage, 1)
    with console.capture() as captured:
        show_result(console, result, tmp_path)
    text = captured.get()
    for act in result["acts"]:
        for side in SIDES:
            cells_of_row = r"\s*│\s*".join(map(re.escape, (side, *cells(act, side))))
            assert re.search(cells_of_row, text), (act["key"], side)
    assert str(tmp_path / "report.html") in text


def test_a_late_load_generator_is_told(stage: Stage) -> None:
    assert notes(_result(stage, 1)) == []
    stage.sides["naive"].takes[0].lags += [0.4] * 10
    assert notes(_result(stage, 2)) == [
        "The load generator was 400 ms late (p99): the machine was too busy for exact figures.",
        "This took 2 tries; the better one is shown.",
    ]


def test_the_conclusion_says_who_recovered(stage: Stage) -> None:
    result = _result(stage, 1)
    assert "resilient client was back at once; the naive one had not recovered 6.0 s later" in conclusion(
        result
    )
    dip = result["acts"][1]
    dip["naive"]["recovery_seconds"], dip["resilient"]["recovery_seconds"] = 4.5, 0.1
    assert "resilient client was back in 0.1 s; the naive one was back in 4.5 s" in conclusion(result)


def test_the_conclusion_says_what_went_wrong(stage: Stage) -> None:
    stage.sides["resilient"].takes = stage.sides["naive"].takes
    assert "the resilient client did not recover" in conclusion(_result(stage, 1))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\N{EN DASH}"), (1.0, "100.0 %"), (0.99999, "99.9 %"), (0.5, "50.0 %")]
)
def test_nearly_all_is_not_all(value: float | None, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize("top", [0.003, 0.4, 1.0, 7.0, 60.0, 83.0, 300.0, 12345.0])
def test_a_grid_has_a_few_round_lines(top: float) -> None:
    assert 2 <= top / step(top) <= 5.01


def test_a_drawing_keeps_inside_its_frame() -> None:
    drawn = svg(
        Chart(key="k", title="<t>", seconds=10.0, series=[Series("naive", [(-1, 5), (2, 9), (11, 5)])])
    )
    assert re.findall(r'points="([^"]*)"', drawn) == [f"{44 + 504 * 0.2:.1f},{12 + 164 * 0.1:.1f}"]
    assert "&lt;t&gt;" in drawn


def test_a_series_without_points_is_told_to_have_none() -> None:
    drawn = svg(Chart(key="k", title="t", seconds=10.0, series=[Series("naive", [])]))
    assert "naive: nothing." in drawn
    assert "polyline" not in drawn


def test_the_live_view_shows_both_sides_beside_each_other(stage: Stage) -> None:
    stage.act, stage.begun = stage.plan.acts[1], 0.0
    stage.sides["resilient"].now = {
        "waiting": 3, "workers": 8, "breaker": "half_open", "limit": 12, "inflight": 5, "queued": 2, "burn": 1.5,
    }  # fmt: skip
    console = Console(width=120)
    with console.capture() as captured:
        console.print(picture(stage))
    text = captured.get()
    assert re.search(r"naive +resilient", text)
    assert "Act 2 of 3: Capacity dip." in text
    assert re.search(r"circuit breaker +\N{EN DASH} +half_open", text)
    assert re.search(r"concurrency limit +\N{EN DASH} +5 of 12 in use, 2 in line", text)
    assert re.search(r"burn rate, objective 99% +\N{EN DASH} +1\.5 x", text)


def test_a_line_of_progress_names_the_act_and_both_sides(stage: Stage) -> None:
    stage.act, stage.phase = stage.plan.acts[0], "all is well"
    assert re.match(r"Healthy +[\d.]+/3 s: all is well \| naive .*attempts .* \| resilient ", line(stage))


def test_attempts_are_told_for_each_request_that_was_sent_and_not_for_the_mean() -> None:
    dues = [0.1, 0.2, 0.3, 0.4, 1.5]
    samples = [Sample(at=0.0, attempts=0), Sample(at=0.5, attempts=8)]
    state = SideState(takes=[Take(samples=samples)])
    assert attempts(state, dues, 0.5) == 2.0
    assert attempts(state, [1.5], 0.5) is None
    assert attempts(state, dues[:4], 0.5) is None  # all was sent: what comes now are retries


def test_the_time_of_an_act_stands_still_while_the_last_answers_are_awaited(stage: Stage) -> None:
    stage.act = stage.plan.acts[0]
    stage.begun -= 1000.0
    assert line(stage).startswith("Healthy  3.0/3 s: ")


def test_before_the_first_act_the_processes_are_named() -> None:
    stage = Stage(Plan())
    assert line(stage) == "starting six processes ..."
    for number, side in enumerate(SIDES):
        stage.sides[side].pids = {"service": 10 + number}
        stage.sides[side].ports = {"service": 8000 + number}
    assert line(stage).endswith("naive service pid 10 port 8000, resilient service pid 11 port 8001")
