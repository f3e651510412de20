"""Figures as text: the same in the table, in the report and while it runs."""

from typing import Any, Final

from resilience.cli._demo._measure import LATE

NOTHING: Final = "\N{EN DASH}"

AT_ONCE: Final = "at once"


def share(value: float | None) -> str:
    """Return a share in per cent; just below 100 % is never shown as 100 %."""
    if value is None:
        return NOTHING
    text = f"{100 * value:.1f} %"
    return "99.9 %" if text == "100.0 %" and value < 1 else text


def seconds(value: float | None) -> str:
    """Return a time: milliseconds below one second."""
    if value is None:
        return NOTHING
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def times(value: float | None) -> str:
    """Return a ratio."""
    return NOTHING if value is None else f"{value:.2f}"


def budget(value: float | None) -> str:
    """Return how often the error budget was spent."""
    return NOTHING if value is None else f"{value:.1f} x"


def recovered(act: dict[str, Any], side: str) -> str:
    """Return when a side had recovered."""
    if act["key"] != "dip":
        return NOTHING
    value = act[side]["recovery_seconds"]
    if value is None:
        return f"not in {act['seconds'] - act['fault_to']:.1f} s"
    return f"{value:.1f} s" if value > 0 else AT_ONCE


ROWS: Final = ("success", "p99", "attempts per call", "wasted work", "recovered after", "budget spent")
"""What is said of each side in each act."""


def cells(act: dict[str, Any], side: str) -> tuple[str, ...]:
    """Return the figures of one side in one act, in the order of `ROWS`."""
    figures = act[side]
    return (
        share(figures["success"]),
        seconds(figures["p99_seconds"]),
        times(figures["attempts_per_call"]),
        share(figures["wasted_work"]),
        recovered(act, side),
        budget(figures["budget_spent"]),
    )


def notes(result: dict[str, Any]) -> list[str]:
    """Return what must be known to judge the figures."""
    said: list[str] = []
    lag = result["lag_p99_seconds"]
    if lag is not None and lag > LATE:
        said.append(
            f"The load generator was {seconds(lag)} late (p99): the machine was too busy for exact figures."
        )
    if result["tries"] > 1:
        said.append(f"This took {result['tries']} tries; the better one is shown.")
    return said


def conclusion(result: dict[str, Any]) -> str:
    """Return what it came to, in a sentence or two."""
    if result["problems"]:
        return f"The resilient client did not do better: {'; '.join(result['problems'])}."
    dip = next(act for act in result["acts"] if act["key"] == "dip")
    naive, resilient = (recovered(dip, side) for side in ("naive", "resilient"))
    never = dip["naive"]["recovery_seconds"] is None
    theirs = f"had not recovered {naive.removeprefix('not in ')} later" if never else f"was {_back(naive)}"
    return (
        f"After the dip the resilient client was {_back(resilient)}; the naive one {theirs}. "
        f"Requests answered in the whole run: {share(_in_all(result, 'resilient'))} against "
        f"{share(_in_all(result, 'naive'))}."
    )


def _back(recovered: str) -> str:
    return f"back {recovered}" if recovered == AT_ONCE else f"back in {recovered}"


def _in_all(result: dict[str, Any], side: str) -> float | None:
    offered = sum(act[side]["requests"] for act in result["acts"])
    return sum(act[side]["good"] for act in result["acts"]) / offered if offered else None
