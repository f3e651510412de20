"""The table at the end."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from resilience.cli._demo._plan import SIDES
from resilience.cli._demo._words import ROWS, cells, conclusion, notes


def show_result(console: Console, result: dict[str, Any], output: Path) -> None:
    """Print the figures of both sides, what they come to, and where the rest is."""
    table = Table(title="What came of it", title_justify="left", header_style="bold")
    table.add_column("act", no_wrap=True)
    table.add_column("client")
    for row in ROWS:
        table.add_column(row, justify="right", min_width=12 if row.startswith("recovered") else None)
    for act in result["acts"]:
        for side in SIDES:
            style = "" if side == "naive" else "bold"
            name = act["title"] if side == SIDES[0] else ""
            table.add_row(name, side, *cells(act, side), style=style, end_section=side == SIDES[-1])
    console.print(table)
    console.print(conclusion(result), style="red" if result["problems"] else "green", highlight=False)
    for note in notes(result):
        console.print(f"Note: {note}", style="yellow", highlight=False)
    console.print(Text(f"Report: {output / 'report.html'}"), soft_wrap=True)
    console.print(
        Text(f"Figures: {output / 'result.json'}; metrics: naive.prom, resilient.prom"), soft_wrap=True
    )
