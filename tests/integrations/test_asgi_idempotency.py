"""Requests with keys, message for message: what is carried out, what is answered again, and what is refused."""

import json
import uuid

import pytest

from resilience import ConfigError
from resilience.idempotency import child_key, current_claim
from resilience.idempotency.stores import MemoryStore
from resilience.integrations.asgi import IdempotencyMiddleware

from .asgi_server import Exchange, answer, begin, end


class Post(Exchange):
    """A POST whose body comes in parts."""

    def __init__(
        self, runtime, path="/orders", key=None, *, body=b"a", parts=(), user="ann", headers=None, **scope
    ):
        super().__init__(runtime, path, **{"method": "POST", "user": user, **scope})
        keys = [] if key is None else [key] if isinstance(key, str) else key
        own = [(b"content-type", b"application/json")] if headers is None else headers
        self.scope["headers"] = [*own, *((b"idempotency-key", each.encode("latin-1")) for each in keys)]
        self.parts = [*parts, body]

    async def receive(self):
        if self.parts:
            body = self.parts.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self.parts)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def problem(self):
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        told = json.loads(self.body)
        assert told["status"] == self.status
        return told["type"].removeprefix("/problems/idempotency/")

    @property
    def outcome(self):
        """The status, and whether it is an answer of old."""
        return self.status, self.headers.get("idempotent-replayed") == "true"


class Shop:
    """An application that counts what it does."""

    def __init__(self, status=201, headers=(), *parts):
        self.status, self.headers, self.parts = status, list(headers), parts
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await end(send, b"receipt %d" % len(self.bodies))


def layer(app, **settings):
    return IdempotencyMiddleware(
        app, **{"store": MemoryStore(), "principal": lambda scope: scope["user"], **settings}
    )


def run(runtime, app, *exchanges):
    """Send requests one after the other."""

    async def body():
        for each in exchanges:
            await each.run(app)

    runtime.run(body)
    return exchanges


# --- what is carried out ---


def test_a_repetition_gets_the_first_answer_and_is_told_so(async_runtime):
    shop = Shop(201, [(b"Content-Type", b"text/plain"), (b"location", b"/orders/1")])
    first, again = run(async_runtime, layer(shop), *(Post(async_runtime, key='"k"') for _ in range(2)))
    assert (first.outcome, again.outcome) == ((201, False), (201, True))
    assert first.body == again.body == b"receipt 1"
    assert (again.headers["content-type"], again.headers["location"]) == ("text/plain", "/orders/1")
    assert again.headers["content-length"] == "9"
    assert shop.bodies == [b"a"]


def test_a_request_without_a_key_is_passed_on_with_its_own_messages(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))
        await answer(send)

    exchange = Post(async_runtime)
    receive, send = exchange.receive, exchange.send
    async_runtime.run(lambda: layer(app)(exchange.scope, receive, send))
    assert seen == [(exchange.scope, receive, send)]
    assert seen[0][0] is exchange.scope
    assert (seen[0][1], seen[0][2]) == (receive, send)


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "of the future"])
def test_what_is_no_request_is_passed_on(async_runtime, kind):
    seen = []

    async def app(*messages):
        seen.append(messages)

    given = ({"type": kind}, object(), object())
    async_runtime.run(lambda: layer(app, required=True)(*given))
    assert [tuple(map(id, each)) for each in seen] == [tuple(map(id, given))]


def test_keys_count_for_their_methods_only(async_runtime):
    shop = Shop()
    for method, times in (("GET", 2), ("DELETE", 2), ("PATCH", 1)):
        shop.bodies.clear()
        run(async_runtime, layer(shop), *(Post(async_runtime, key="k", method=method) for _ in range(2)))
        assert len(shop.bodies) == times
    shop.bodies.clear()
    run(
        async_runtime,
        layer(shop, methods={"DELETE"}),
        *(Post(async_runtime, key="k", method="DELETE") for _ in range(2)),
    )
    assert len(shop.bodies) == 1


def test_keys_count_on_their_paths_only(async_runtime):
    shop = Shop()
    guarded = layer(shop, paths=["/orders/{id:int}/pay", "/refunds"], required=True)
    for path, times in (("/orders/7/pay", 1), ("/refunds", 1), ("/orders", 2), ("/orders/7/8/pay", 2)):
        shop.bodies.clear()
        run(async_runtime, guarded, *(Post(async_runtime, path, key="k") for _ in range(2)))
        assert len(shop.bodies) == times, path
    (free,) = run(async_runtime, guarded, Post(async_runtime, "/orders"))
    assert free.status == 201


def test_the_application_gets_the_body_and_then_what_the_server_says(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append(await receive())
        await answer(send)
        seen.append(await receive())

    exchange = Post(async_runtime, key="k", parts=[b"one", b"two"], body=b"")
    exchange.left.set()
    run(async_runtime, layer(app), exchange)
    assert seen == [
        {"type": "http.request", "body": b"onetwo", "more_body": False},
        {"type": "http.disconnect"},
    ]


def test_the_work_knows_its_claim(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append((current_claim().key, current_claim().epoch, child_key("charge")))
        await answer(send, 500)

    run(async_runtime, layer(app), *(Post(async_runtime, key='"k 1"') for _ in range(2)))
    (key, epoch, child), (_, later, same) = seen
    assert (key, later - epoch, child) == ("k 1", 1, same)
    assert current_claim() is None


def test_keys_of_steps_are_the_callers_own_too(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append(child_key("charge"))
        await answer(send, 500)

    guarded = layer(app)
    requests = [{}, {"user": "bob"}, {"path": "/refunds"}, {}]
    run(async_runtime, guarded, *(Post(async_runtime, key="order-1", **each) for each in requests))
    assert seen[0] == seen[3]
    assert len(set(seen)) == 3


# --- keys ---


@pytest.mark.parametrize(("one", "other"), [('"k"', "k"), ('"k"', '"k";v=1'), ("k", " k ")])
def test_ways_to_write_a_key_are_one_key(async_runtime, one, other):
    shop = Shop()
    run(async_runtime, layer(shop), Post(async_runtime, key=one), Post(async_runtime, key=other))
    assert len(shop.bodies) == 1


class Untouched:
    """A store that must not be asked."""

    leases, async_only = True, False

    def claim(self, *_):
        raise AssertionError

    aclaim = claim


@pytest.mark.parametrize(
    "key",
    ["", '"', '""', '"a', "a,b", "ä", "a b", "k" * 256, '"\x07"', ["k", "k"], ["k", "j"]],
    ids=repr,
)
def test_a_key_that_is_none_is_refused_before_the_store_is_asked(async_runtime, key):
    shop = Shop()
    guarded = layer(shop, store=Untouched())
    (exchange,) = run(async_runtime, guarded, Post(async_runtime, key=key))
    assert (exchange.status, exchange.problem) == (400, "invalid-key")
    assert "retry-after" not in exchange.headers
    assert (shop.bodies, guarded.layer.missing_key) == ([], 1)


def test_strict_syntax_wants_quotes(async_runtime):
    guarded = layer(Shop(), syntax="strict")
    bare, quoted = run(async_runtime, guarded, Post(async_runtime, key="k"), Post(async_runtime, key='"k"'))
    assert (bare.status, bare.problem, quoted.status) == (400, "invalid-key", 201)


def test_the_header_can_have_another_name(async_runtime):
    shop = Shop()
    headers = [(b"x-once", b"k")]
    run(
        async_runtime, layer(shop, header="X-Once"), *(Post(async_runtime, headers=headers) for _ in range(2))
    )
    assert len(shop.bodies) == 1


def test_a_key_can_be_required_everywhere_or_by_path(async_runtime):
    shop = Shop()
    everywhere, by_path = layer(shop, required=True), layer(shop, required=["/pay/{id}"])
    for number, path in enumerate(("/orders", "/", "", "/a\nb"), 1):
        (missing,) = run(async_runtime, everywhere, Post(async_runtime, path))
        assert (missing.status, missing.problem) == (400, "key-missing")
        assert everywhere.layer.missing_key == number
    missing, free, given = run(
        async_runtime,
        by_path,
        Post(async_runtime, "/pay/7"),
        Post(async_runtime, "/orders"),
        Post(async_runtime, "/pay/7", key="k"),
    )
    assert (missing.status, free.status, given.status) == (400, 201, 201)
    (read,) = run(async_runtime, everywhere, Post(async_runtime, method="GET"))
    assert read.status == 201


# --- the same request ---


@pytest.mark.parametrize("other", [{"body": b"b"}, {"query_string": b"dry=1"}, {"headers": []}], ids=str)
def test_the_same_key_with_another_request_is_refused(async_runtime, other):
    shop = Shop()
    guarded = layer(shop)
    _, second = run(
        async_runtime, guarded, Post(async_runtime, key="k"), Post(async_runtime, key="k", **other)
    )
    assert (second.status, second.problem) == (422, "key-reused")
    assert "retry-after" not in second.headers
    assert (len(shop.bodies), guarded.layer.mismatched) == (1, 1)


def test_another_request_is_refused_while_the_first_is_at_work_too(async_runtime):
    gate = async_runtime.event()

    async def app(scope, receive, send):
        await gate.wait()
        await answer(send, 201)

    guarded = layer(app)
    first, other = Post(async_runtime, key="k"), Post(async_runtime, key="k", body=b"b")

    async def body():
        job = async_runtime.spawn(first.run, guarded)
        await async_runtime.until(lambda: guarded.layer.executed == 1)
        await other.run(guarded)
        gate.set()
        await job

    async_runtime.run(body)
    assert (other.status, other.problem, first.status) == (422, "key-reused", 201)


def test_a_path_that_decodes_to_the_same_is_another_request(async_runtime):
    guarded = layer(Shop())
    _, second = run(
        async_runtime,
        guarded,
        Post(async_runtime, "/a/b", key="k", raw_path=b"/a/b"),
        Post(async_runtime, "/a/b", key="k", raw_path=b"/a%2Fb"),
    )
    assert second.problem == "key-reused"


def test_other_paths_and_methods_have_keys_of_their_own(async_runtime):
    shop = Shop()
    requests = [Post(async_runtime, path, key="k") for path in ("/a", "/b")]
    run(async_runtime, layer(shop), *requests, Post(async_runtime, "/a", key="k", method="PATCH"))
    assert len(shop.bodies) == 3


def multipart(boundary, content=b"x"):
    quoted = b'"%s"' % boundary if b" " in boundary else boundary
    return {
        "headers": [(b"content-type", b"multipart/form-data; boundary=" + quoted)],
        "key": "k",
        "body": b"--%s\r\n\r\n%s\r\n--%s--\r\n" % (boundary, content, boundary),
    }


def test_an_upload_is_the_same_with_another_boundary(async_runtime):
    shop = Shop()
    _, again, other = run(
        async_runtime,
        layer(shop),
        Post(async_runtime, **multipart(b"first")),
        Post(async_runtime, **multipart(b"and second")),
        Post(async_runtime, **multipart(b"third", b"y")),
    )
    assert (again.outcome, other.status) == ((201, True), 422)


def test_what_makes_a_request_the_same_can_be_said(async_runtime):
    guarded = layer(Shop(), fingerprint=lambda scope, body: json.loads(body)["id"])
    _, same, other = run(
        async_runtime,
        guarded,
        *(
            Post(async_runtime, key="k", body=body)
            for body in (b'{"id": 1}', b'{"id": 1, "at": 2}', b'{"id": 2}')
        ),
    )
    assert (same.outcome, other.status) == ((201, True), 422)


# --- callers ---


def test_no_caller_gets_what_another_one_was_answered(async_runtime):
    shop = Shop()
    guarded = layer(shop)
    users = ["ann", "bob", b"ann", 1, "1", uuid.UUID(int=1), str(uuid.UUID(int=1))]
    firsts = run(async_runtime, guarded, *(Post(async_runtime, key="k", user=user) for user in users))
    agains = run(async_runtime, guarded, *(Post(async_runtime, key="k", user=user) for user in users))
    assert [each.body for each in firsts] == [b"receipt %d" % number for number in range(1, 8)]
    assert [each.body for each in agains] == [each.body for each in firsts]
    assert all(each.outcome == (201, True) for each in agains)


@pytest.mark.parametrize("user", [None, "", b""])
def test_a_caller_whom_nobody_knows_is_refused_unless_there_is_no_key(async_runtime, user):
    shop = Shop()
    keyed, free = run(
        async_runtime, layer(shop), Post(async_runtime, key="k", user=user), Post(async_runtime, user=user)
    )
    assert (keyed.status, keyed.problem, free.status) == (400, "caller-unknown", 201)


@pytest.mark.parametrize(
    ("principal", "error"),
    [
        (lambda scope: scope["nobody"], KeyError),
        (lambda scope: object(), TypeError),
        (lambda scope: True, TypeError),
    ],
)
def test_a_principal_that_fails_is_an_error_that_says_where_it_belongs(async_runtime, principal, error):
    shop = Shop()
    with pytest.raises(error) as caught:
        run(async_runtime, layer(shop, principal=principal), Post(async_runtime, key="k"))
    assert "IdempotencyMiddleware" in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert shop.bodies == []


# --- one at a time ---


def test_of_many_at_once_one_is_carried_out_and_the_others_are_told_to_come_again(async_runtime):
    gate, ran = async_runtime.event(), []

    async def app(scope, receive, send):
        ran.append(scope["path"])
        await gate.wait()
        await answer(send, 201)

    guarded = layer(app)
    exchanges = [Post(async_runtime, key="k") for _ in range(50)]

    async def body():
        jobs = [async_runtime.spawn(each.run, guarded) for each in exchanges]
        await async_runtime.until(lambda: guarded.layer.in_progress == 49)
        gate.set()
        for job in jobs:
            await job

    async_runtime.run(body)
    refused = [each for each in exchanges if each.status == 409]
    assert (len(ran), len(refused)) == (1, 49)
    assert {(each.problem, each.headers["retry-after"]) for each in refused} == {("request-in-progress", "1")}


@pytest.mark.parametrize(("most", "told"), [(0.2, "1"), (7.5, "8"), (600.0, "60")])
def test_one_who_is_early_is_told_when_to_come_but_not_after_the_lease(async_runtime, most, told):
    guarded = layer(Shop(), retry_after=most)
    second = Post(async_runtime, key="k")

    async def body():
        gate = async_runtime.event()

        async def app(scope, receive, send):
            await gate.wait()
            await answer(send)

        guarded.app = app
        job = async_runtime.spawn(Post(async_runtime, key="k").run, guarded)
        await async_runtime.until(lambda: guarded.layer.executed == 1)
        await second.run(guarded)
        gate.set()
        await job

    async_runtime.run(body)
    assert (second.status, second.headers["retry-after"]) == (409, told)


def test_one_who_is_early_may_wait_for_the_answer(async_runtime):
    async def app(scope, receive, send):
        await async_runtime.sleep(0.1)
        await answer(send, 201, b"made")

    guarded = layer(app, wait_for=10.0)
    exchanges = [Post(async_runtime, key="k") for _ in range(2)]
    async_runtime.run(
        lambda: async_runtime.gather(*(lambda each=each: each.run(guarded) for each in exchanges))
    )
    assert sorted(each.outcome for each in exchanges) == [(201, False), (201, True)]


def test_a_long_request_keeps_its_key(async_runtime):
    gate = async_runtime.event()

    async def app(scope, receive, send):
        await gate.wait()
        await answer(send, 201)

    guarded = layer(app, lease=0.6)
    first, second = Post(async_runtime, key="k"), Post(async_runtime, key="k")

    async def body():
        job = async_runtime.spawn(first.run, guarded)
        await async_runtime.until(lambda: guarded.layer.executed == 1)
        await async_runtime.sleep(1.4)
        await second.run(guarded)
        gate.set()
        await job

    async_runtime.run(body)
    assert (first.status, second.problem) == (201, "request-in-progress")


# --- failures ---


def failing(error=None, status=None):
    ran = []

    async def app(scope, receive, send):
        ran.append(1)
        if status is not None:
            await answer(send, status)
        if error is not None:
            raise error

    return app, ran


@pytest.mark.parametrize("failure", [{"error": KeyError("x")}, {"status": 500}, {"status": 503}, {}], ids=str)
@pytest.mark.parametrize("on_error", ["release", "hold"])
def test_what_fails_is_done_again_or_held(async_runtime, failure, on_error):
    app, ran = failing(**failure)
    guarded = layer(app, on_error=on_error)
    for _ in range(2):
        exchange = Post(async_runtime, key="k")
        try:
            run(async_runtime, guarded, exchange)
        except KeyError:
            assert exchange.sent == []
    assert len(ran) == (2 if on_error == "release" else 1)
    if on_error == "hold":
        assert (exchange.status, exchange.problem) == (409, "outcome-unknown")
        assert "retry-after" not in exchange.headers


def test_an_outcome_that_nobody_knows_is_not_worth_waiting_for(async_runtime, fake_clock):
    app, ran = failing(status=500)
    guarded = layer(app, on_error="hold")
    run(async_runtime, guarded, Post(async_runtime, key="k"))
    fake_clock.advance(61)
    (second,) = run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert (second.status, second.problem, len(ran)) == (409, "outcome-unknown", 1)
    assert "retry-after" not in second.headers


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 421, 422, 425, 429])
@pytest.mark.parametrize("on_error", ["release", "hold"])
def test_a_request_that_was_not_carried_out_gives_its_key_back_to_whatever_comes(
    async_runtime, status, on_error
):
    shop = Shop(status)
    guarded = layer(shop, on_error=on_error)
    run(async_runtime, guarded, Post(async_runtime, key="k"))
    shop.status = 201
    (second,) = run(async_runtime, guarded, Post(async_runtime, key="k", body=b"corrected"))
    assert (second.outcome, len(shop.bodies)) == ((201, False), 2)


@pytest.mark.parametrize("status", [200, 204, 303, 400, 402, 410, 418])
def test_any_other_answer_is_kept(async_runtime, status):
    shop = Shop(status)
    _, again = run(async_runtime, layer(shop), *(Post(async_runtime, key="k") for _ in range(2)))
    assert (again.outcome, len(shop.bodies)) == ((status, True), 1)
    assert ("content-length" in again.headers) == (status != 204)


def test_which_statuses_give_the_key_back_can_be_said(async_runtime):
    shop = Shop(400)
    guarded = layer(shop, release_statuses={400})
    run(async_runtime, guarded, *(Post(async_runtime, key="k") for _ in range(2)))
    assert len(shop.bodies) == 2


def test_an_answer_that_breaks_off_is_not_kept(async_runtime):
    ran = []

    async def app(scope, receive, send):
        ran.append(1)
        await begin(send, 200)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionError

    guarded = layer(app)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert len(ran) == 2


def test_a_request_that_is_cancelled_gives_its_key_back(async_runtime):
    gate = async_runtime.event()

    async def app(scope, receive, send):
        await gate.wait()
        await answer(send, 201)

    guarded = layer(app)

    async def body():
        job = async_runtime.spawn(Post(async_runtime, key="k").run, guarded)
        await async_runtime.until(lambda: guarded.layer.executed == 1)
        async_runtime.cancel(job)
        await job.join()
        gate.set()
        again = await Post(async_runtime, key="k").run(guarded)
        assert again.outcome == (201, False)

    async_runtime.run(body)


def test_a_request_that_is_cancelled_when_its_answer_is_there_is_kept(async_runtime):
    async def app(scope, receive, send):
        await answer(send, 201)
        await async_runtime.sleep(60)

    guarded = layer(app)

    async def body():
        exchange = Post(async_runtime, key="k")
        job = async_runtime.spawn(exchange.run, guarded)
        await async_runtime.until(lambda: len(exchange.sent) == 2)
        async_runtime.cancel(job)
        await job.join()
        assert (await Post(async_runtime, key="k").run(guarded)).outcome == (201, True)

    async_runtime.run(body)


def test_an_error_in_the_background_does_not_take_the_answer_back(async_runtime):
    app, ran = failing(KeyError("background"), 201)
    guarded = layer(app, on_error="hold")
    with pytest.raises(KeyError):
        run(async_runtime, guarded, Post(async_runtime, key="k"))
    (again,) = run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert (again.outcome, len(ran)) == ((201, True), 1)


# --- answers ---


def test_the_answer_is_stored_when_its_last_part_is_sent_and_before_what_follows(async_runtime):
    seen = []
    guarded = layer(None)

    async def app(scope, receive, send):
        await answer(send, 201, b"made")
        again = await Post(async_runtime, key="k").run(guarded)
        seen.append((again.outcome, again.body))

    guarded.app = app
    run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert seen == [((201, True), b"made")]


def test_the_parts_of_an_answer_go_out_as_they_come_and_are_replayed_as_one(async_runtime):
    exchange, seen = Post(async_runtime, key="k"), []

    async def app(scope, receive, send):
        await begin(send)
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": number < 2})
            seen.append(exchange.body)

    guarded = layer(app)
    _, again = run(async_runtime, guarded, exchange, Post(async_runtime, key="k"))
    assert seen == [b"0", b"01", b"012"]
    assert (again.body, again.headers["content-length"]) == (b"012", "3")


def test_a_replay_has_the_headers_that_say_what_it_is_and_no_others(async_runtime):
    kept = [
        (b"content-type", b"text/plain"), (b"content-encoding", b"br"), (b"etag", b'"1"'), (b"link", b"</a>; rel=a"),
        (b"link", b"</b>; rel=b"), (b"content-disposition", b"inline"), (b"last-modified", b"then"),
    ]  # fmt: skip
    lost = [
        (b"Set-Cookie", b"session=ann"), (b"content-length", b"9"), (b"date", b"now"), (b"x-request-id", b"7"),
        (b"www-authenticate", b"Basic"), (b"retry-after", b"1"), (b"x-own", b"1"), (b"transfer-encoding", b"chunked"),
    ]  # fmt: skip
    first, again = run(
        async_runtime, layer(Shop(201, [*kept, *lost])), *(Post(async_runtime, key="k") for _ in range(2))
    )
    assert first.sent[0]["headers"] == [*kept, *lost]
    assert again.sent[0]["headers"] == [*kept, (b"content-length", b"9"), (b"idempotent-replayed", b"true")]


def test_further_headers_can_be_replayed(async_runtime):
    shop = Shop(201, [(b"x-own", b"1")])
    _, again = run(
        async_runtime, layer(shop, replay_headers=["X-Own"]), *(Post(async_runtime, key="k") for _ in "ab")
    )
    assert again.headers["x-own"] == "1"


@pytest.mark.parametrize("parts", [(b"x" * 2000,), (b"x" * 400,) * 5], ids=["one", "many"])
def test_an_answer_that_is_too_long_arrives_and_is_neither_kept_nor_made_again(async_runtime, parts):
    shop = Shop(201, [], *parts)
    guarded = layer(shop, max_response_bytes=1000)
    first, again = run(async_runtime, guarded, *(Post(async_runtime, key="k") for _ in range(2)))
    assert first.body == b"x" * 2000 + b"receipt 1"
    assert (again.status, again.problem, len(shop.bodies)) == (409, "response-not-stored", 1)
    assert "retry-after" not in again.headers
    assert guarded.layer.not_replayable == 1


def unseen(kind):
    """Answers whose bytes do not come by, or not all of them."""

    async def app(scope, receive, send):
        if kind == "trailers":
            await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
            await end(send, b"body")
            await send({"type": "http.response.trailers", "headers": [(b"x", b"y")]})
        elif kind == "file":
            await begin(send)
            await send({"type": "http.response.pathsend", "path": "/etc/hostname"})
        elif kind == "events":
            headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await end(send, b"data: 1\n\n")
        else:
            await begin(send)
            await send({"type": "http.response.of-the-future"})
            await end(send, b"body")

    return app


@pytest.mark.parametrize("kind", ["trailers", "file", "events", "future"])
def test_an_answer_that_cannot_be_repeated_is_sent_as_it_is_and_not_made_again(async_runtime, kind):
    app = unseen(kind)
    bare = Post(async_runtime, key="k")
    first, again = run(async_runtime, layer(app), *(Post(async_runtime, key="k") for _ in range(2)))
    run(async_runtime, app, bare)
    assert first.sent == bare.sent
    assert again.problem == "response-not-stored"


def test_messages_beside_the_answer_are_passed_on_and_do_no_harm(async_runtime):
    async def app(scope, receive, send):
        await send({"type": "http.response.early_hint", "links": []})
        await answer(send, 201, b"made")

    first, again = run(async_runtime, layer(app), *(Post(async_runtime, key="k") for _ in range(2)))
    assert [each["type"] for each in first.sent] == [
        "http.response.early_hint", "http.response.start", "http.response.body",
    ]  # fmt: skip
    assert again.outcome == (201, True)


# --- bodies ---


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"11")]], ids=["chunked", "declared"])
def test_a_body_that_is_too_long_is_refused_before_the_store_is_asked(async_runtime, headers):
    shop = Shop()
    guarded = layer(shop, store=Untouched(), max_request_bytes=10)
    exchange = Post(async_runtime, key="k", parts=[b"x" * 5, b"x" * 5], body=b"x")
    exchange.scope["headers"] += headers
    run(async_runtime, guarded, exchange)
    assert (exchange.status, exchange.problem, shop.bodies) == (413, "request-too-large", [])
    assert len(exchange.parts) == (3 if headers else 0)


def test_a_body_of_the_greatest_length_is_carried_out(async_runtime):
    shop = Shop()
    run(
        async_runtime,
        layer(shop, max_request_bytes=10),
        Post(async_runtime, key="k", parts=[b"x" * 5], body=b"x" * 5),
    )
    assert shop.bodies == [b"x" * 10]


def test_who_leaves_before_the_request_is_there_is_not_served(async_runtime):
    shop = Shop()
    exchange = Post(async_runtime, key="k")
    messages = [{"type": "http.request", "body": b"h", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async_runtime.run(lambda: layer(shop, store=Untouched())(exchange.scope, receive, exchange.send))
    assert (exchange.sent, shop.bodies, messages) == ([], [], [])


# --- clients that leave ---


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_client_that_leaves_stops_nothing_where_sending_then_fails(async_runtime, when):
    ran = []

    async def app(scope, receive, send):
        ran.append(1)
        if when == "before":
            exchange.left.set()
        await begin(send, 201)
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        exchange.left.set()
        await send({"type": "http.response.body", "body": b"two ", "more_body": True})
        await end(send, b"three")

    guarded = layer(app)
    exchange = Post(async_runtime, key="k")
    exchange.refuses = True
    with pytest.raises(OSError, match="has left"):
        run(async_runtime, guarded, exchange)
    (again,) = run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert (again.outcome, again.body, len(ran)) == ((201, True), b"one two three", 1)


def test_a_stream_that_is_not_kept_ends_with_its_client(async_runtime):
    sent = []

    async def app(scope, receive, send):
        await begin(send, 200)
        exchange.left.set()
        while True:
            sent.append(1)
            await send({"type": "http.response.body", "body": b"x" * 400, "more_body": True})

    exchange = Post(async_runtime, key="k")
    exchange.refuses = True
    with pytest.raises(OSError, match="has left"):
        run(async_runtime, layer(app, max_response_bytes=1000), exchange)
    assert len(sent) == 3


def test_an_application_that_asks_hears_that_its_client_has_left_when_the_answer_is_there(async_runtime):
    seen = []

    async def app(scope, receive, send):
        await receive()
        await begin(send, 201)
        job = async_runtime.spawn(receive)
        await async_runtime.sleep(0.05)
        seen.append(job.done())
        await end(send)
        seen.append((await job)["type"])

    exchange = Post(async_runtime, key="k")
    exchange.left.set()
    guarded = layer(app)
    run(async_runtime, guarded, exchange)
    (again,) = run(async_runtime, guarded, Post(async_runtime, key="k"))
    assert (seen, again.outcome) == ([False, "http.disconnect"], (201, True))


def test_an_application_that_does_nothing_else_hears_it_after_a_lease(async_runtime):
    seen = []

    async def app(scope, receive, send):
        await receive()
        seen.append((await receive())["type"])

    exchange = Post(async_runtime, key="k")
    exchange.left.set()
    run(async_runtime, layer(app, lease=0.05), exchange)
    assert seen == ["http.disconnect"]


# --- stores that fail ---


class Failing(MemoryStore):
    """A store in which some operations fail."""

    def __init__(self, *operations):
        super().__init__()
        self.operations = set(operations)

    def _check(self, operation):
        if operation in self.operations:
            raise ConnectionError

    async def aclaim(self, *values):
        self._check("claim")
        return await super().aclaim(*values)

    async def acomplete(self, *values):
        self._check("complete")
        return await super().acomplete(*values)


def test_without_its_store_a_request_is_refused_and_counted(async_runtime):
    shop = Shop()
    guarded = layer(shop, store=Failing("claim"), retry_after=2.5)
    keyed, free = run(async_runtime, guarded, Post(async_runtime, key="k"), Post(async_runtime))
    assert (keyed.status, keyed.problem, keyed.headers["retry-after"]) == (503, "store-unavailable", "3")
    assert (free.status, len(shop.bodies), guarded.layer.store_errors) == (201, 1, 1)


def test_without_its_store_a_request_is_carried_out_unprotected_where_that_is_set_and_counted(async_runtime):
    shop = Shop()
    guarded = layer(shop, store=Failing("claim"), fail_open=True)
    first, second = run(async_runtime, guarded, *(Post(async_runtime, key="k") for _ in range(2)))
    assert [first.outcome, second.outcome] == [(201, False), (201, False)]
    assert (first.body, second.body, guarded.layer.store_errors) == (b"receipt 1", b"receipt 2", 2)


def test_an_answer_that_cannot_be_stored_arrives_and_is_not_made_again_before_the_lease_ends(async_runtime):
    shop, store = Shop(), Failing("complete")
    store.complete = None  # the background fails as well
    guarded = layer(shop, store=store)
    first, second = run(async_runtime, guarded, *(Post(async_runtime, key="k") for _ in range(2)))
    assert (first.outcome, first.body) == ((201, False), b"receipt 1")
    assert (second.problem, len(shop.bodies), guarded.layer.unsaved) == ("request-in-progress", 1, 1)


class Broken:
    """A cipher that cannot encrypt."""

    def encrypt(self, plain, context):
        raise ConnectionError

    def decrypt(self, sealed, context):
        raise AssertionError


def test_an_answer_that_cannot_be_encrypted_arrives_and_is_not_made_again(async_runtime):
    shop = Shop()
    guarded = layer(shop, cipher=Broken())
    first, second = run(async_runtime, guarded, *(Post(async_runtime, key="k") for _ in range(2)))
    assert (first.outcome, second.problem, len(shop.bodies)) == ((201, False), "response-not-stored", 1)


# --- settings ---


def test_all_settings_that_are_wrong_are_named_at_once():
    wrong = {
        "store": object(), "principal": "user", "methods": ["post"], "paths": ["orders"], "required": "/orders",
        "header": "a b", "syntax": "loose", "retry_after": 0, "max_request_bytes": 0, "max_response_bytes": True,
        "release_statuses": [500], "replay_headers": ["Set-Cookie"], "fingerprint": b"", "problem_types": None,
        "ttl": 0, "on_error": "ignore", "cipher": 7,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        IdempotencyMiddleware(Shop(), **wrong)
    named = {problem.setting for problem in caught.value.problems}
    assert named == set(wrong)


@pytest.mark.parametrize("setting", [{"store": object()}, {"cipher": 7}, {"name": ""}, {"name": None}])
def test_a_layer_that_cannot_be_made_is_said(setting):
    with pytest.raises(ConfigError):
        layer(Shop(), **setting)


def test_a_principal_must_be_said():
    with pytest.raises(TypeError, match="principal"):
        IdempotencyMiddleware(Shop(), store=MemoryStore())
