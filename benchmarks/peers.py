"""
What a guarded call costs here and elsewhere, measured in one run.

Run it with ``python -m benchmarks.peers``; figures are ratios to the empty closure, as those of the gates.
It ends with 1 if somebody who does all that a row says is quicker.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from benchmarks.contenders import MARKS, PEERS, Contender
from benchmarks.gates import MADE
from benchmarks.measuring import (
    ROUNDS,
    Figure,
    Subject,
    aanswer,
    aempty,
    ameasure,
    answer,
    build,
    empty,
    measure,
    middle,
)
from benchmarks.report import NONE, VERSION, Table, write
from benchmarks.rows import COLOURS, SYNC


@dataclass(frozen=True)
class Result:
    """What one library costs in one row, for each colour that it offers."""

    row: str
    contender: Contender
    figures: dict[str, Figure]


def run(rows: Sequence[str], *, rounds: int = ROUNDS) -> list[Result]:
    """Measure every contender of *rows*, interleaved with those of the same row."""
    results: list[Result] = []
    for row in rows:
        figures = {colour: _measured(PEERS[row], colour, rounds) for colour in COLOURS}
        for contender in PEERS[row]:
            found = {
                colour: figures[colour][contender.name]
                for colour in COLOURS
                if contender.name in figures[colour]
            }
            results.append(Result(row, contender, found))
    return results


def _measured(contenders: Sequence[Contender], colour: str, rounds: int) -> dict[str, Figure]:
    is_sync = colour == SYNC
    fn = answer if is_sync else aanswer
    reference = empty(answer) if is_sync else aempty(aanswer)
    some = [each for each in contenders if (each.sync if is_sync else each.asyncio)]
    made: list[dict[str, Figure]] = []
    for _ in range(MADE):
        subjects = [Subject(each.name, each.make()(fn), fn, reference) for each in some]
        made.append((measure if is_sync else ameasure)(subjects, rounds=-(-rounds // MADE)))
    return {each.name: middle([figures[each.name] for figures in made]) for each in some}


def quicker(results: Sequence[Result]) -> list[str]:
    """Say who does all that a row says, and is quicker than we are."""
    found: list[str] = []
    for ours in (each for each in results if each.contender.is_ours):
        for theirs in (each for each in results if each.row == ours.row and not each.contender.marks):
            for colour, figure in theirs.figures.items():
                if figure.ratio < ours.figures[colour].ratio:
                    found.append(f"{theirs.contender.name} in {ours.row} ({colour})")
    return found


def tables(results: Sequence[Result]) -> list[Table]:
    """Return one table for each row."""
    found: list[Table] = []
    for row in dict.fromkeys(each.row for each in results):
        of_row = [each for each in results if each.row == row]
        first = of_row[0]
        cells = [
            (
                f"{each.contender.name}{_version(each.contender.name)}{_marks(each.contender.marks)}",
                *(_shown(each, colour) for colour in COLOURS),
                *(_times(each, first, colour) for colour in COLOURS),
            )
            for each in of_row
        ]
        head = (row, *COLOURS, "sync, of ours", "asyncio, of ours")
        marks = sorted({mark for each in of_row for mark in each.contender.marks})
        notes = ["; ".join(f"({mark}) {MARKS[mark]}" for mark in marks) + "."] if marks else []
        found.append(Table(f"peers {VERSION}: {row}", head, cells, notes))
    return found


def _marks(marks: str) -> str:
    return "".join(f" ({mark})" for mark in marks)


def _version(name: str) -> str:
    try:
        return f" {version(name)}"
    except PackageNotFoundError:
        return ""


def _shown(result: Result, colour: str) -> str:
    figure = result.figures.get(colour)
    return NONE if figure is None else f"{figure.ratio:.2f}"


def _times(result: Result, first: Result, colour: str) -> str:
    if colour not in result.figures or result is first:
        return NONE
    return f"{result.figures[colour].ratio / first.figures[colour].ratio:.1f} times"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if we are not the quickest where others do the same."""
    options = _parser().parse_args(arguments)
    rows = [row for row in PEERS if not options.only or any(each in row for each in options.only)]
    if not rows:
        print(f"no row is called so; there are: {', '.join(PEERS)}", file=sys.stderr)
        return 2
    results = run(rows, rounds=options.rounds)
    if options.write:
        write(tables(results))
    if options.json:
        found = [
            {"row": each.row, "name": each.contender.name, "marks": each.contender.marks}
            | {colour: asdict(figure) for colour, figure in each.figures.items()}
            for each in results
        ]
        print(json.dumps({"build": build(), "rows": found, "marks": MARKS}, indent=2))
    elif options.markdown:
        print("\n\n".join(each.markdown() for each in tables(results)))
    else:
        print(build(), *(each.text() for each in tables(results)), sep="\n\n")
    ahead = quicker(results)
    if ahead:
        print(f"quicker, and doing the same: {', '.join(ahead)}", file=sys.stderr)
    return int(bool(ahead))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="What calls cost.")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds for each figure (default {ROUNDS})"
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the page on performance")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
