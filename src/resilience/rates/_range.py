"""What the settings of all rates that learn must be."""

from resilience._core.check import Check, is_finite


def check_range(
    subject: str, *, decrease: float, floor: float, ceiling: float | None, window: float
) -> Check:
    """Return a check that has looked at what the rates have in common; `Check.done` is still to be called."""
    check = Check(subject)
    inside = is_finite(decrease) and 0 < decrease < 1
    check.that(inside, "decrease", decrease, "must be a number in (0, 1)")
    floor_holds = check.number("floor", floor, above=0)
    if ceiling is not None:
        holds = is_finite(ceiling) and (ceiling >= floor if floor_holds else ceiling > 0)
        check.that(holds, "ceiling", ceiling, "must be a finite number >= floor or None")
    check.seconds("window", window)
    return check
