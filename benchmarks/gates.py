"""
What a guarded call costs, and whether that is within the gates.

Run it with ``python -m benchmarks.gates``; it ends with 1 if a gate is missed::

    python -m benchmarks.gates --only "rate limiter" --rounds 501
    python -m benchmarks.gates --short --margin 0.25      what continuous integration asks
    python -m benchmarks.gates --markdown                 the tables of the page on performance
    python -m benchmarks.gates --write                    put them there
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product

from benchmarks import blocks, others
from benchmarks.measuring import ROUNDS, Figure, ameasure, build, measure, middle
from benchmarks.report import NONE, VERSION, Table, write
from benchmarks.rows import COLOURS, ROWS, SCOPES, STRICTLY, SYNC, WRITTEN, NotThereError, Row

from resilience import deadline

SHORT_ROUNDS = 51

NOISE = 0.03
"""How far apart two runs of the same code lie on a machine that is left alone."""

MADE = 3
"""How often each row is made anew: the same policy made twice may cost half as much again."""

OTHERS = "others"
"""What ``--only`` calls everything that is no ratio of calls."""


@dataclass(frozen=True)
class Result:
    """
    What was found for one row and colour.

    Attributes:
        name: Name of the row.
        colour: Colour of the function.
        gate: The most that the ratio may be; None if it is only reported.
        figure: What was measured; None if there is nothing to measure.
        strict: For calls that do not end well, the ratio to a closure whose function succeeds.
        margin: By which share of the gate the ratio may lie above it.
        written: The ratio of the same job, written by hand; None if that is not measured.

    """

    name: str
    colour: str
    gate: float | None
    figure: Figure | None
    strict: float | None = None
    margin: float = 0.0
    written: float | None = None

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "missed: not there yet"
        if self.gate is None:
            return "reported"
        if self.figure.ratio <= self.gate * (1 + self.margin):
            return "met"
        return "as by hand" if self.is_as_by_hand else "missed"

    @property
    def is_as_by_hand(self) -> bool:
        """Whether it costs no more than the same job written by hand, on this machine."""
        if self.figure is None or self.written is None:
            return False
        return self.figure.ratio <= self.written * (1 + self.margin)

    @property
    def is_missed(self) -> bool:
        return self.gate is not None and self.verdict.startswith("missed")


def run(rows: Sequence[Row], *, rounds: int = ROUNDS, margin: float = 0.0) -> list[Result]:
    """Measure *rows*; those in the same scope that end alike are interleaved."""
    results: list[Result] = []
    for is_late, scope, colour, ends_well in product((False, True), SCOPES, COLOURS, (True, False)):
        some = [
            row
            for row in rows
            if row.is_late is is_late
            and row.scope is scope
            and colour in row.colours
            and (row.ending is None) is ends_well
        ]
        if is_late and some:
            with deadline(1.0):  # from here on all code looks for one, whichever rows are asked for
                pass
        figures = _figures(some, colour, rounds) if some else {}
        for row in some:
            strict, written = (
                None if (found := figures.get(kind.format(row.name))) is None else found.ratio
                for kind in (STRICTLY, WRITTEN)
            )
            gate, figure = row.gate(colour), figures.get(row.name)
            results.append(Result(row.name, colour, gate, figure, strict, margin, written))
    order = {row.name: number for number, row in enumerate(rows)}
    return sorted(results, key=lambda each: (COLOURS.index(each.colour), order[each.name]))


def _figures(rows: Sequence[Row], colour: str, rounds: int) -> dict[str, Figure]:
    scope = rows[0].scope
    made: list[dict[str, Figure]] = []
    try:
        with nullcontext() if scope is None else scope():
            for _ in range(MADE):
                subjects = [row.subject(colour) for row in rows]
                subjects += [row.strict_subject(colour) for row in rows if row.ending is not None]
                subjects += [row.written_subject(colour) for row in rows if row.written is not None]
                made.append((measure if colour == SYNC else ameasure)(subjects, rounds=-(-rounds // MADE)))
    except NotThereError:
        return {}
    return {name: middle([figures[name] for figures in made]) for name in made[0]}


def table(results: Sequence[Result], rounds: int = ROUNDS) -> Table:
    """Return the results as one table."""
    rows = [
        (
            each.name,
            each.colour,
            NONE if each.gate is None else f"{each.gate:g}",
            NONE if each.written is None else f"{each.written:.2f}",
            NONE if each.figure is None else f"{each.figure.ratio:.2f}",
            NONE if each.figure is None else f"{each.figure.ns:,.0f}",
            _room(each),
            each.verdict,
        )
        for each in results
    ]
    head = ("call", "colour", "gate", "by hand", "measured", "ns", "margin", "verdict")
    notes = [f"{build()}; {rounds} rounds."]
    strict = [f"{each.name} {each.strict:.1f} ({each.colour})" for each in results if each.strict is not None]
    if strict:
        notes.append(f"As ratios to a closure whose function succeeds: {', '.join(strict)}.")
    return Table(f"gates {VERSION}", head, rows, notes)


def _room(result: Result) -> str:
    if result.figure is None or result.gate is None:
        return NONE
    return f"{1 - result.figure.ratio / result.gate:+.0%}"


def as_json(results: Sequence[Result], findings: Sequence[others.Finding]) -> str:
    """Return everything that was found, for programs."""
    rows = [
        {
            "row": each.name,
            "colour": each.colour,
            "gate": each.gate,
            "verdict": each.verdict,
            "ratio_to_success": each.strict,
            "ratio_by_hand": each.written,
            **({} if each.figure is None else asdict(each.figure)),
        }
        for each in results
    ]
    more = [{**asdict(each), "verdict": each.verdict} for each in findings]
    return json.dumps({"build": build(), "rows": rows, "others": more}, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a gate is missed."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (SHORT_ROUNDS if options.short else ROUNDS)
    wanted = [row for row in ROWS if not options.only or any(each in row.name for each in options.only)]
    asks_others = not options.only or OTHERS in options.only
    if not wanted and not asks_others:
        names = ", ".join([*(row.name for row in ROWS), OTHERS])
        print(f"no row is called so; there are: {names}", file=sys.stderr)
        return 2
    results = run(wanted, rounds=rounds, margin=options.margin)
    findings = others.found(is_short=options.short, margin=options.margin) if asks_others else []
    is_missed = any(each.is_missed for each in (*results, *findings))
    tables = [table(results, rounds)] if results else []
    tables += [others.table(findings)] if findings else []
    if options.markdown or options.write:
        tables.append(blocks.table(rounds=rounds))
    if options.write:
        write(tables)
    if options.json:
        print(as_json(results, findings))
    elif options.markdown:
        print("\n\n".join(each.markdown() for each in tables))
    else:
        print("\n\n".join(each.text() for each in tables))
        missed = sum(each.is_missed for each in (*results, *findings))
        print(f"\n{missed} gates are missed." if missed else "\nEvery gate is met.")
    return int(is_missed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description="What calls cost.")
    parser.add_argument("--rounds", type=int, help=f"rounds for each figure (default {ROUNDS})")
    parser.add_argument(
        "--only", action="append", metavar="ROW", help=f"rows whose name contains this, or {OTHERS}"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=NOISE,
        help=f"share by which a figure may lie above its gate (default {NOISE}, which is noise)",
    )
    parser.add_argument("--short", action="store_true", help="fewer rounds, smaller worlds")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the page on performance")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
