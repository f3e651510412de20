"""Dates of HTTP: the form that servers must write, and the two that they once wrote."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.rates import parse_ratelimit
from resilience.rates._dates import parse_date

SPRING_1994 = 766_000_000.0
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)).map(
    lambda at: at.replace(microsecond=0, tzinfo=UTC)
)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_the_three_forms_of_the_rfc_name_one_instant(text):
    """RFC 9110, 5.6.7: its own examples."""
    assert parse_date(text, SPRING_1994) == 784_111_777.0


@given(INSTANTS)
def test_a_date_is_read_as_the_calendar_has_it(at):
    assert (
        parse_date(at.strftime("%a, %d %b ") + f"{at.year:04}" + at.strftime(" %H:%M:%S GMT"), None)
        == at.timestamp()
    )
    asctime = at.strftime("%a %b ") + f"{at.day:2}" + at.strftime(" %H:%M:%S ") + f"{at.year:04}"
    assert parse_date(asctime, None) == at.timestamp()


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2049, 12, 31)).map(lambda at: at.replace(tzinfo=UTC)),
    st.floats(-49.9, 49.9),
)
def test_a_year_of_two_digits_is_the_one_nearby(now, years):
    at = datetime.fromtimestamp(int(now.timestamp() + years * 365.2425 * 86_400.0), UTC)
    if 1950 <= at.year < 2100:
        assert parse_date(at.strftime("%A, %d-%b-%y %H:%M:%S GMT"), now.timestamp()) == at.timestamp()


@pytest.mark.parametrize(
    ("now", "year"), [(2025, 2075), (2024, 1975), (1994, 1975)], ids=lambda year: str(year)
)
def test_a_year_of_two_digits_is_past_if_it_seems_more_than_fifty_years_ahead(now, year):
    wall = datetime(now, 7, 1, tzinfo=UTC).timestamp()
    expected = datetime(year, 6, 1, tzinfo=UTC).timestamp()
    assert parse_date("Someday, 01-Jun-75 00:00:00 GMT", wall) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 08:49:37",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  0 08:49:37 1994",
        "Sun Nov  6 08:49:37 94",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_none_of_the_three_is_no_date(text):
    assert parse_date(text, SPRING_1994) is None


@pytest.mark.parametrize("date", ["Sunday, 06-Nov-94 08:49:07 GMT", "Sun Nov  6 08:49:07 1994", None])
@pytest.mark.parametrize("text", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_retry_after_may_be_a_date_of_an_obsolete_form(text, date):
    headers = {"Retry-After": text} | ({"Date": date} if date else {})
    assert parse_ratelimit(headers, wall=784_111_747.0).retry_after == 30.0
