"""Dates in the headers of an answer, in each of the three forms that RFC 9110 has recipients read."""

import re
from typing import Final

from resilience.typing import Seconds

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH: Final = rf"(?P<month>{'|'.join(_MONTHS)})"
_DAY: Final = r"0[1-9]|[12]\d|3[01]"
_TIME: Final = r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d|60)"
_FORMS: Final = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]{{2}}, (?P<day>{_DAY}) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        # Obsolete: that of RFC 850, and that of C's asctime().
        rf"[A-Z][a-z]{{5,8}}, (?P<day>{_DAY})-{_MONTH}-(?P<year>\d{{2}}) {_TIME} GMT",
        rf"[A-Z][a-z]{{2}} {_MONTH} (?P<day> [1-9]|{_DAY}) {_TIME} (?P<year>\d{{4}})",
    )
)

_CENTURY: Final = 100
_FIFTY_YEARS: Final[Seconds] = 50 * 365.2425 * 86_400.0


def parse_date(text: str, wall: Seconds | None) -> Seconds | None:
    """
    Return the instant that *text* names, in seconds since 1970; None if it is no date of RFC 9110, 5.6.7.

    Of the two centuries that a year of two digits may be of, it is the earlier one if the later one is more
    than fifty years after *wall*, the time now, if that is known.
    """
    match = next((found for form in _FORMS if (found := form.fullmatch(text.strip()))), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 4:
        return _instant(match, year)
    later = _instant(match, year + 20 * _CENTURY)
    is_past = wall is not None and later > wall + _FIFTY_YEARS
    return _instant(match, year + 19 * _CENTURY) if is_past else later


def _instant(match: re.Match[str], year: int) -> Seconds:
    # Years begin in March here, so that the leap day is the last one.
    month = (_MONTHS.index(match["month"]) - 2) % 12
    year -= month >= 10
    days = 365 * year + year // 4 - year // 100 + year // 400
    days += (153 * month + 2) // 5 + int(match["day"]) - 719_469
    return float(
        86_400 * days + 3_600 * int(match["hour"]) + 60 * int(match["minute"]) + int(match["second"])
    )
