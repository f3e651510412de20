"""Tables: on a terminal, as JSON, and in the page on performance."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Each version has tables of its own in the page."""

NONE = "-"
"""Stands where there is no figure."""

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"


@dataclass(frozen=True)
class Table:
    """
    One table.

    Attributes:
        key: What the markers in the page call it.
        head: Names of the columns; those after the first are aligned to the right.
        rows: The cells.
        notes: What is to be said below.

    """

    key: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        widths = [max(len(row[i]) for row in (self.head, *self.rows)) for i in range(len(self.head))]
        lines = [
            "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.head, ["-" * width for width in widths], *self.rows)
        ]
        return "\n".join([*lines, *self.notes])

    def markdown(self) -> str:
        rule = ["---", *["--:"] * (len(self.head) - 1)]
        lines = [f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows)]
        lines += [text for note in self.notes for text in ("", note)]
        return f"<!-- begin {self.key} -->\n\n" + "\n".join(lines) + f"\n\n<!-- end {self.key} -->"


def write(tables: Sequence[Table], page: Path = PAGE) -> None:
    """Put each table in the place of the one of its key in the page."""
    text = page.read_text(encoding="utf-8")
    for table in tables:
        pattern = rf"<!-- begin {re.escape(table.key)} -->.*?<!-- end {re.escape(table.key)} -->"
        text, found = re.subn(pattern, lambda _, table=table: table.markdown(), text, flags=re.DOTALL)
        if not found:
            raise LookupError(f"{page.name} has no place for {table.key}")
    page.write_text(text, encoding="utf-8")
