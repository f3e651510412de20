"""Keys on the wire and in stores, fingerprints, envelopes, codecs, and the block that carries a key."""

import contextvars
import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import IdempotencyKeyError, IdempotencyMismatchError, IdempotencyStoreError
from resilience.idempotency import (
    IdempotencyLayer,
    JsonCodec,
    Replayed,
    Session,
    child_key,
    current_claim,
    current_idempotency_key,
    derive_key,
    fingerprint_request,
    fingerprint_value,
    format_key,
    idempotency_key,
    idempotent,
    lookup_key,
    parse_key,
)
from resilience.idempotency._envelope import EnvelopeError, seal, unseal
from resilience.idempotency.stores import MemoryStore

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)
BARE = KEYS.filter(lambda key: not set(key) & set(' ",\\'))


@given(KEYS)
def test_a_key_survives_the_wire_in_quotes(key: str) -> None:
    assert parse_key(format_key(key), syntax="strict") == parse_key(format_key(key)) == key


@given(BARE)
def test_a_key_without_quotes_is_the_same_key(key: str) -> None:
    assert parse_key(key) == parse_key(format_key(key)) == parse_key(format_key(key, bare=True)) == key
    with pytest.raises(IdempotencyKeyError):
        parse_key(key, syntax="strict")


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ('"abc"', "abc"),
        (' "abc" ', "abc"),
        ('"abc";v=1', "abc"),
        ('"abc"; v=?1;w="x;y";z', "abc"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("a=b;c", "a=b;c"),
    ],
)
def test_headers_that_are_keys(header: str, key: str) -> None:
    assert parse_key(header) == key


@pytest.mark.parametrize(
    "header",
    [
        "", " ", '""', '"abc', 'abc"def"'[3:] + '"', r'"a\b"', '"a", "a"', '"a", "b"', "a, b", "a,b", "a b",
        "é", '"é"', "a\x00", '"a\x7f"', '"abc" def', '"abc";', '"abc";V=1', "x" * 256, '"' + "x" * 256 + '"', "x" * 10**6,
    ],
)  # fmt: skip
def test_headers_that_are_not(header: str) -> None:
    with pytest.raises(IdempotencyKeyError, match="needs an idempotency key: it "):
        parse_key(header)


@pytest.mark.parametrize("header", ["abc", "123", "?1", ":YWJj:", "@1659578233", "(a b)"])
def test_strict_syntax_takes_strings_only(header: str) -> None:
    with pytest.raises(IdempotencyKeyError):
        parse_key(header, syntax="strict")


@pytest.mark.parametrize("header", ["", " ", '""'])
def test_an_empty_key_is_refused_for_its_length(header: str) -> None:
    with pytest.raises(IdempotencyKeyError, match="must have 1 to 255 characters, got 0"):
        parse_key(header)


@pytest.mark.parametrize("key", ["a b", '"a', "a,b"])
def test_a_key_that_needs_quotes_is_not_sent_without(key: str) -> None:
    with pytest.raises(IdempotencyKeyError):
        format_key(key, bare=True)


@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
    st.lists(st.text(max_size=5), min_size=1, max_size=4),
)
def test_different_parts_never_share_a_place(one: list[str], two: list[str]) -> None:
    assert (lookup_key(*one) == lookup_key(*two)) == (one == two)
    assert (derive_key("n", *one) == derive_key("n", *two)) == (one == two)
    assert len(lookup_key(*one)) == 32
    assert parse_key(derive_key("n", *one)) == derive_key("n", *one)


def test_a_derived_key_depends_on_its_namespace_and_needs_parts() -> None:
    assert derive_key("a", "x") != derive_key("b", "x")
    with pytest.raises(IdempotencyKeyError):
        derive_key("a")


REQUEST = {
    "method": "POST",
    "route": "/orders",
    "body": b"{}",
    "query": "a=1&b=2",
    "headers": [("Content-Type", "x")],
}


def test_a_request_is_the_same_whatever_does_not_matter() -> None:
    same = {**REQUEST, "method": "post", "query": "b=2&a=1", "headers": [("content-type", "x")]}
    assert fingerprint_request(**REQUEST) == fingerprint_request(**same)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"}, {"route": "/order"}, {"body": b"{ }"}, {"body": b""}, {"query": "a=1"}, {"query": "a=2&b=1"},
        {"headers": []}, {"headers": [("Content-Type", "y")]}, {"route": "/order", "body": b"s{}"},
    ],
)  # fmt: skip
def test_a_request_differs_by_whatever_matters(changed: dict) -> None:
    assert fingerprint_request(**REQUEST) != fingerprint_request(**{**REQUEST, **changed})


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (b'{"a":1,"b":[1, 2]}', b'{ "b":[1,2], "a":1 }', True),
        (b'{"a":1}', b'{"a":1.0}', False),
        (b'{"a":1}', b'{"a":"1"}', False),
        (b'{"a":1e400}', b'{"a":1e401}', False),
        (b'{"a":1,"a":2}', b'{"a":2}', False),
        (b"[1,2]", b"[2,1]", False),
        (b"not json", b"not  json", False),
        (b"[" * 100_000, b"[" * 100_000, True),
        (b'"\\u00e9"', '"é"'.encode(), True),
    ],
)
def test_canonical_json_compares_what_is_meant(one: bytes, two: bytes, same: bool) -> None:
    prints = [fingerprint_request("POST", "/", body, canonical_json=True) for body in (one, two)]
    assert (prints[0] == prints[1]) == same


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: object
    y: object = 0


DIFFERENT = [
    None, True, False, 1, 1.0, "1", b"1", 0, "", b"", [], (), {}, set(), [1], (1,), {1}, {"a": 1}, {1: "a"}, {"1": "a"},
    Colour.RED, Colour.BLUE, Point(1), Point("1"), Point(1, 1), dt.date(2024, 1, 1), dt.datetime(2024, 1, 1),
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.timedelta(1), uuid.UUID(int=1), decimal.Decimal(1), decimal.Decimal("1.0"),
    pathlib.PurePosixPath("a"), "a", ["a", "b"], ["ab"], [["a"], "b"], "RED", "\ud800",
]  # fmt: skip


def test_different_values_have_different_fingerprints() -> None:
    prints = [fingerprint_value(value) for value in DIFFERENT]
    assert len(set(prints)) == len(prints)
    assert prints == [fingerprint_value(value) for value in DIFFERENT]


def test_order_matters_only_where_it_does() -> None:
    assert fingerprint_value({"a": 1, "b": 2}) == fingerprint_value({"b": 2, "a": 1})
    assert fingerprint_value({3, 1, 2}) == fingerprint_value(frozenset({2, 3, 1}))


def test_what_has_no_content_has_no_fingerprint() -> None:
    endless: list[object] = []
    endless.append(endless)
    for value in (object(), [lambda: 1], endless, Point(threading.Lock())):
        with pytest.raises(TypeError, match="has no fingerprint"):
            fingerprint_value(value)


class Backwards:
    """A cipher of the tests: it turns bytes round, and checks the context."""

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        return context + plain[::-1]

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        if not sealed.startswith(context):
            raise ValueError("not for here")
        return sealed.removeprefix(context)[::-1]


@pytest.mark.parametrize("cipher", [None, Backwards()])
@given(content=st.binary(max_size=50))
def test_an_envelope_gives_back_what_was_put_in(cipher, content: bytes) -> None:
    sealed = seal(content, key=b"k", codec="json", cipher=cipher)
    assert unseal(sealed, key=b"k", codec="json", cipher=cipher) == content


def test_an_envelope_that_cannot_be_read_says_why() -> None:
    plain = seal(b"content", key=b"k", codec="json")
    sealed = seal(b"content", key=b"k", codec="json", cipher=Backwards())
    for bad, settings, why in (
        (b"", {}, "cut off"),
        (plain[:5], {}, "cut off"),
        (b"\x02" + plain[1:], {}, "version 2"),
        (plain, {"codec": "other"}, "codec b'json'"),
        (plain, {"cipher": Backwards()}, "not encrypted"),
        (sealed, {}, "no cipher"),
        (sealed, {"cipher": Backwards(), "key": b"other"}, "cannot be decrypted"),
    ):
        with pytest.raises(EnvelopeError, match=why):
            unseal(bad, **{"key": b"k", "codec": "json", **settings})


def test_with_a_cipher_the_store_holds_no_plain_text_and_a_stranger_cannot_read_it() -> None:
    store, place = MemoryStore(), lookup_key("x")
    layer = IdempotencyLayer("secret", store=store, cipher=Backwards())
    with layer.begin(place, b"") as session:
        session.complete(b"4111 1111")
    assert b"4111 1111" not in store.inspect(place).value
    assert layer.begin(place, b"") == Replayed(b"4111 1111")
    stranger = IdempotencyLayer("stranger", store=store)
    with pytest.raises(IdempotencyStoreError) as caught:
        stranger.begin(place, b"")
    assert isinstance(caught.value.__cause__, EnvelopeError)
    assert stranger.store_errors == 1


def test_a_codec_refuses_what_would_come_back_as_something_else() -> None:
    for value in ({1: 2}, float("inf"), b"x", {1}, dt.date(2024, 1, 1)):
        with pytest.raises((TypeError, ValueError)):
            JsonCodec().encode(value)


def test_a_block_carries_its_key_for_one_request() -> None:
    assert current_idempotency_key() is None
    with idempotency_key("order-42") as block:
        assert current_idempotency_key() == "order-42"
        assert block.bind(b"one") == block.bind(b"one") == "order-42"
        with pytest.raises(IdempotencyMismatchError):
            block.bind(b"two")
        with idempotency_key() as inner:
            assert uuid.UUID(current_idempotency_key()).version == 4
            assert inner.bind(b"two") == inner.key
        assert current_idempotency_key() == "order-42"
        # Hedges run in copies of the context, and share the block.
        with pytest.raises(IdempotencyMismatchError):
            contextvars.copy_context().run(lambda: block.bind(b"two"))
    assert current_idempotency_key() is None
    with pytest.raises(RuntimeError, match="entered once"), block:
        pass


def test_of_many_different_requests_at_once_one_gets_the_key() -> None:
    block, bound, refused = idempotency_key("k"), [], []

    def bind(number: int) -> None:
        try:
            bound.append(block.bind(bytes([number])))
        except IdempotencyMismatchError:
            refused.append(number)

    threads = [threading.Thread(target=bind, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(bound), len(refused)) == (1, 15)


def test_steps_derive_keys_that_are_stable_and_differ() -> None:
    with idempotency_key("a"):
        charge, ship = child_key("charge"), child_key("ship")
        assert charge == child_key("charge") != ship
    with idempotency_key("b"):
        assert child_key("charge") != charge
    with pytest.raises(LookupError):
        child_key("charge")


def test_inside_a_guarded_function_requests_need_keys_of_their_own() -> None:
    seen: list[object] = []

    @idempotent("outer", store=MemoryStore())
    def work() -> None:
        seen.extend((current_idempotency_key(), child_key("step"), current_claim().key))
        if len(seen) == 3:
            raise KeyError

    with idempotency_key("k"):
        with pytest.raises(KeyError):
            work()
        work()
        assert current_idempotency_key() == "k"
    assert seen[0] is None
    assert seen[:3] == seen[3:]  # stable when the work is repeated
    assert current_claim() is None


@pytest.mark.parametrize("bad", ["", "x" * 256, "é", "a\n", 7])
def test_a_block_refuses_what_is_no_key(bad: object) -> None:
    with pytest.raises(IdempotencyKeyError):
        idempotency_key(bad)


def test_principals_do_not_share_keys() -> None:
    layer = IdempotencyLayer("p", store=MemoryStore())
    for principal in ("ann", "bob"):
        begun = layer.begin(lookup_key("p", principal, "POST /orders", "k"), b"same")
        assert isinstance(begun, Session)
        with begun:
            begun.complete(principal.encode())
    assert layer.begin(lookup_key("p", "ann", "POST /orders", "k"), b"same") == Replayed(b"ann")
