"""Lists of strings with parameters: every kind of value, and where a list breaks off."""

import pytest

from resilience.rates._structured import LONGEST, parse_list


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x", True),
        ("x=?1", True),
        ("x=?0", False),
        ("x=7", 7),
        ("x=-7", -7),
        ("x=1.5", 1.5),
        ("x=-0.125", -0.125),
        ('x="a b"', "a b"),
        (r'x="a\"b\\c"', r'a"b\c'),
        ("x=tok/en:*", "tok/en:*"),
        ("x=:dHI=:", ":dHI=:"),
    ],
)
def test_a_parameter_is_read_as_what_it_is(text, value):
    [(name, given)] = parse_list(f'"a";{text}')
    assert (name, given) == ("a", {"x": value})
    assert type(given["x"]) is type(value)


def test_items_come_in_their_order_each_with_its_own_parameters():
    assert parse_list(' "a";x=1;y , "b" ,\t"c";x=2 ') == [
        ("a", {"x": 1, "y": True}),
        ("b", {}),
        ("c", {"x": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("", ""),
        ("token, and more than twenty", "token, and more than"),
        ('"a", and more than twenty here', "and more than twenty"),
        ('"a" "b";and=more;than=twenty', ' "b";and=more;than=t'),
        ('"a";X=1;and=more;than=twenty', ";X=1;and=more;than=t"),
        ('"a";x=(1);and=more;than=twenty', "=(1);and=more;than=t"),
    ],
)
def test_an_error_shows_twenty_characters_from_where_a_list_breaks_off(text, rest):
    with pytest.raises(ValueError) as caught:
        parse_list(text)
    assert caught.value.args == (rest,)


def test_a_list_that_is_too_long_is_not_read():
    fits = '"' + "a" * (LONGEST - 2) + '"'
    assert parse_list(f"  {fits}\t") == [(fits[1:-1], {})]
    with pytest.raises(ValueError) as caught:
        parse_list(fits + ";")
    assert caught.value.args == ('"' + "a" * 19,)
