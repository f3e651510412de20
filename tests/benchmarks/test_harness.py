"""The verdict on what calls cost: what is missed is said, and nothing else."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from benchmarks import by_hand, gates, peers
from benchmarks.finding import Finding
from benchmarks.measuring import CALL, Figure, Subject, aempty, ameasure, answer, empty, measure
from benchmarks.report import PAGE, Table, write
from benchmarks.rows import ASYNCIO, COLOURS, ROWS, SYNC


def twice(x):
    return answer(answer(x))


def subject(f, fn=answer, reference=None):
    return Subject("it", f, fn, reference or empty(answer), CALL, CALL)


def test_the_empty_closure_costs_as_much_as_itself():
    ratio = measure([subject(empty(answer))], rounds=15)["it"].ratio
    assert 0.7 < ratio < 1.4


def test_the_function_itself_costs_less():
    assert measure([subject(answer)], rounds=15)["it"].ratio < 0.8


def test_coroutines_are_awaited_in_one_loop():
    loops = []

    async def note(x):
        loops.append(asyncio.get_running_loop())
        return x

    ameasure([subject(note, note, aempty(note))], rounds=3)
    assert len(loops) > 3
    assert len(set(loops)) == 1


def figure(ratio):
    return Figure(ratio=ratio, ns=1.0, reference_ns=1.0)


@pytest.mark.parametrize(
    ("gate", "ratio", "margin", "verdict", "is_missed"),
    [
        (1.0, 1.0, 0.0, "met", False),
        (1.0, 1.01, 0.0, "missed", True),
        (1.0, 1.25, 0.25, "met", False),
        (1.0, 1.26, 0.25, "missed", True),
        (None, 99.0, 0.0, "reported", False),
    ],
)
def test_a_gate_is_missed_by_what_lies_above_it_and_its_margin(gate, ratio, margin, verdict, is_missed):
    result = gates.Result("row", SYNC, gate, figure(ratio), None, margin)
    assert (result.verdict, result.is_missed) == (verdict, is_missed)


@pytest.mark.parametrize(
    ("written", "ratio", "margin", "verdict", "is_missed"),
    [
        (1.5, 0.9, 0.0, "met", False),
        (1.5, 1.5, 0.0, "as by hand", False),
        (1.5, 1.51, 0.0, "missed", True),
        (1.2, 1.5, 0.25, "as by hand", False),
        (0.9, 1.01, 0.0, "missed", True),
        (None, 1.01, 0.0, "missed", True),
    ],
)
def test_a_gate_is_not_missed_by_what_costs_no_more_than_the_same_job_written_by_hand(
    written, ratio, margin, verdict, is_missed
):
    result = gates.Result("row", SYNC, 1.0, figure(ratio), None, margin, written)
    assert (result.verdict, result.is_missed) == (verdict, is_missed)


def test_what_is_written_by_hand_counts_what_it_does():
    jobs = (by_hand.METRICS, by_hand.RETRY, by_hand.TIMED_BREAKER, by_hand.RATE, by_hand.CONCURRENCY)
    guarded = by_hand.guarded(*jobs)(answer, is_async=False)
    assert [guarded(n) for n in range(3)] == [0, 1, 2]
    known = guarded.__globals__
    counts = [known["retry"].good, known["circuit"].good, known["bucket"].acquired, known["places"].acquired]
    assert counts == [3, 3, 3, 3]
    assert (known["places"].inflight, sum(known["buckets"])) == (0, 3)


def test_a_gate_is_missed_where_there_is_nothing_to_measure():
    result = gates.Result("row", SYNC, 1.0, None)
    assert (result.verdict, result.is_missed) == ("missed: not there yet", True)


def test_a_finding_is_missed_above_its_bound():
    assert [Finding("n", value, "ms", 45.0).is_missed for value in (45.0, 45.1)] == [False, True]
    assert not Finding("n", 1e9, "ms").is_missed


def test_every_row_with_a_gate_is_measured_for_its_colour():
    assert [
        row.name for row in ROWS for colour in COLOURS if row.gate(colour) and colour not in row.colours
    ] == []


def test_names_of_rows_are_unique():
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("colour", COLOURS)
def test_every_row_without_a_scope_can_be_measured(colour):
    rows = [row for row in ROWS if row.scope is None and colour in row.colours]
    results = [each for each in gates.run(rows, rounds=1) if each.colour == colour]
    assert [each.name for each in results if each.figure is None] == []
    assert len(results) == len(rows)


def test_the_program_prints_json_and_fails_for_a_missed_gate(capsys, monkeypatch):
    monkeypatch.setattr(gates, "run", lambda rows, **_: [gates.Result(rows[0].name, SYNC, 1.0, figure(2.0))])
    status = gates.main(["--json", "--only", ROWS[0].name])
    printed = json.loads(capsys.readouterr().out)
    assert (status, printed["rows"][0]["verdict"]) == (1, "missed")


def test_the_program_names_its_rows_if_there_is_no_such_row(capsys):
    assert gates.main(["--only", "no such row"]) == 2
    assert ROWS[0].name in capsys.readouterr().err


def test_a_table_takes_the_place_of_the_one_before_it(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin k -->\nold\n<!-- end k -->\nafter\n", encoding="utf-8")
    table = Table("k", ("a", "b"), [("1", "2")], ["Said."])
    for _ in range(2):
        write([table], page)
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.count("| 1 | 2 |") == 1
    assert (text.startswith("before\n"), text.endswith("after\n")) == (True, True)


def test_a_table_without_a_place_is_an_error(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(LookupError, match="no place for k"):
        write([Table("k", ("a",), [])], page)


def test_every_peers_table_has_a_place_in_the_page():
    places = re.findall(r"<!-- begin peers [\d.]+: (.+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(places) == sorted(peers.PEERS)


def test_every_contender_can_be_measured_and_guards_the_call():
    results = peers.run(list(peers.PEERS), rounds=1)
    for each in results:
        expected = {SYNC: each.contender.sync, ASYNCIO: each.contender.asyncio}
        assert {colour: colour in each.figures for colour in COLOURS} == expected, each.contender.name


def test_only_those_who_do_the_same_count_as_quicker():
    (ours, theirs, *_) = peers.PEERS["rate limiter"]
    marked = next(each for each in peers.PEERS["rate limiter"] if each.marks)
    results = [
        peers.Result("rate limiter", ours, {SYNC: figure(2.0)}),
        peers.Result("rate limiter", theirs, {SYNC: figure(1.0)}),
        peers.Result("rate limiter", marked, {SYNC: figure(1.0)}),
    ]
    assert peers.quicker(results) == [f"{theirs.name} in rate limiter (sync)"]
