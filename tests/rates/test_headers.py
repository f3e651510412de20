"""What servers say about their rate, read from the headers of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.rates import Quota, RateLimitFields, Remaining, parse_ratelimit


def one(text, field="RateLimit"):
    return parse_ratelimit({field: text})


def test_the_fields_of_the_draft_are_read():
    fields = parse_ratelimit(
        {"RateLimit-Policy": '"burst";q=100;w=60, "day";q=1000;w=86400', "ratelimit": '"burst";r=50;t=30'}
    )
    assert fields.policies == (Quota("burst", 100, 60.0), Quota("day", 1000, 86400.0))
    assert fields.limits == (Remaining("burst", 50, 30.0),)
    assert fields


@pytest.mark.parametrize(
    "said",
    [{"limits": (Remaining("a", 0, None),)}, {"policies": (Quota("a", 0, None),)}, {"retry_after": 0.0}],
)
def test_any_one_of_the_fields_is_something_said(said):
    assert RateLimitFields(**said)
    assert not RateLimitFields()


@pytest.mark.parametrize(
    "text",
    [
        "", "garbage;;", '"a"', '"a";t=5', '"a";r=-1', '"a";r=1.5', '"a";r="1"', '"a";r', '"a";r=?1', '"a";r=1;t=x"',
        '"a;r=1', '"a";r=1,', ',"a";r=1', '"a";r=1 "b";r=2', '("a");r=1', '"ä";r=1', '"a";R=1', '"a";r=1;',
        '"a";r=1234567890123456', '"a";r=1;t=-5', '"a\\b";r=1', '"a";r=1' + " " * 9_000 + ',"b";r=2', "default;r=1",
    ],
)  # fmt: skip
def test_a_malformed_field_is_ignored(text):
    assert not one(text)


@pytest.mark.parametrize("text", ['"a";q=1;w=0', '"a";w=5', '"a";q=-1', '"a";q=1;w=1.5'])
def test_a_malformed_policy_is_ignored(text):
    assert not one(text, "RateLimit-Policy")


@pytest.mark.parametrize(
    "text",
    [
        '"a";r=7', '  "a"; r=7  ', '"a";r=1;r=7', '"a";r=7;pk=:dHI=:', '"a";r=7;x;y=?0;z=1.5;v=tok/en:*;w="s;,\\""',
    ],
)  # fmt: skip
def test_parameters_that_nobody_asked_for_do_not_matter(text):
    assert one(text).limits == (Remaining("a", 7, None),)


def test_a_malformed_field_does_not_take_the_others_with_it():
    fields = parse_ratelimit({"RateLimit": "?", "RateLimit-Policy": '"a";q=5;w=1', "Retry-After": "soon"})
    assert fields == RateLimitFields(policies=(Quota("a", 5, 1.0),))


@pytest.mark.parametrize("prefix", ["X-RateLimit", "x-ratelimit", "RateLimit", "X-Rate-Limit"])
def test_the_older_fields_are_read(prefix):
    fields = parse_ratelimit({f"{prefix}-Limit": "100", f"{prefix}-Remaining": "9", f"{prefix}-Reset": "30"})
    assert fields.limits == (Remaining("", 9, 30.0),)
    assert fields.policies == (Quota("", 100, None),)


def test_an_older_limit_may_name_its_window():
    assert one("100, 100;w=60", "RateLimit-Limit").policies == (Quota("", 100, 60.0),)


@pytest.mark.parametrize("reset", ["1700000030", "1700000030000"])
def test_a_reset_that_is_an_instant_is_relative_to_the_answers_date_or_the_wall(reset):
    given_ = {"X-RateLimit-Remaining": "5", "X-RateLimit-Reset": reset}
    assert parse_ratelimit(given_).limits == (Remaining("", 5, None),)
    assert parse_ratelimit(given_, wall=1.7e9).limits == (Remaining("", 5, 30.0),)
    assert parse_ratelimit(given_, wall=1.8e9).limits == (Remaining("", 5, 0.0),)
    dated = given_ | {"Date": "Tue, 14 Nov 2023 22:13:40 GMT"}  # ten seconds before
    assert parse_ratelimit(dated, wall=1.8e9).limits == (Remaining("", 5, 10.0),)


def test_the_fields_of_the_draft_come_before_the_older_ones():
    fields = parse_ratelimit({"RateLimit": '"a";r=1', "X-RateLimit-Remaining": "9"})
    assert fields.limits == (Remaining("a", 1, None),)


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "inf", "nan", "٣", "1" * 20])
def test_an_older_field_that_is_malformed_is_ignored(text):
    assert not parse_ratelimit(
        {"X-RateLimit-Remaining": text, "X-RateLimit-Limit": text, "Retry-After": text}
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20", 20.0),
        ("0", 0.0),
        ("Thu, 29 Feb 2024 00:00:30 GMT", 30.0),
        ("Wed, 28 Feb 2024 00:00:00 GMT", 0.0),
        ("Fri, 01 Mar 2024 00:00:00 GMT", 86_400.0),
        ("Thu, 29 Foo 2024 00:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    fields = parse_ratelimit({"Retry-After": text, "Date": "Thu, 29 Feb 2024 00:00:00 GMT"})
    assert fields.retry_after == seconds


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, None),
        ({"RateLimit": '"a";r=1;t=10'}, None),
        ({"RateLimit": '"a";r=0;t=10, "b";r=0;t=20'}, 20.0),
        ({"RateLimit": '"a";r=0'}, 0.0),
        ({"RateLimit": '"a";r=0;t=10', "Retry-After": "5"}, 5.0),
    ],
)
def test_retry_after_takes_precedence_over_the_reset(headers, pause):
    assert parse_ratelimit(headers).pause == pause


def test_the_terms_are_the_strictest_that_are_about_requests():
    fields = parse_ratelimit(
        {
            "RateLimit-Policy": '"b";q=100;w=60,"d";q=1000;w=86400,"x";q=1;w=99;qu="content-bytes"',
            "RateLimit": '"b";r=50;t=30,"d";r=10;t=100,"x";r=1;t=99',
        }
    )
    assert fields.terms == {"remaining": 10, "reset_after": 100.0, "quota": 1000, "window": 86400.0}
    assert set(parse_ratelimit({}).terms.values()) == {None}


@given(st.dictionaries(st.sampled_from(["RateLimit", "RateLimit-Policy", "Retry-After", "Date"]), st.text()))
def test_whatever_a_server_sends_is_read_without_an_error(headers):
    fields = parse_ratelimit(headers, wall=0.0)
    assert fields.pause is None or fields.pause >= 0


@given(
    st.lists(
        st.tuples(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.integers(0, 10**15 - 1))
    )
)
def test_what_is_written_as_the_draft_says_is_read_back(items):
    quoted = [(name, name.replace("\\", "\\\\").replace('"', '\\"'), r) for name, r in items]
    fields = one(", ".join(f'"{text}";r={r}' for _, text, r in quoted))
    assert [(limit.name, limit.remaining) for limit in fields.limits] == [(name, r) for name, _, r in quoted][
        :99_999
    ]
