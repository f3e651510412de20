"""Keys that clients send: one for each logical request, and nowhere else."""

import io
import uuid

import pytest
from tests.doubles import Slots
from tests.integrations.servers import RawServer, reply, reset, then

from resilience import CallContext, Hedge, Outcome, Pipeline, Retry, Verdict
from resilience.backoff import constant
from resilience.errors import ConfigError, IdempotencyKeyError, IdempotencyMismatchError
from resilience.idempotency import idempotency_key
from resilience.integrations.httpx import HttpSettings, http_verdict

DIGEST = 'Digest realm="a", nonce="b", qop="auth", algorithm=MD5'
BREAKS = then(0.02, reset)


def retrying(attempts=3):
    return Retry(attempts=attempts, backoff=constant(0.0), budget=None)


def keys(server):
    return [seen.headers.get("idempotency-key") for seen in server.seen]


# --- what carries a key ---


def test_a_request_in_a_block_carries_its_key_over_all_attempts_and_no_other_does(web) -> None:
    async def body():
        with RawServer(BREAKS, reply(503), reply(201), reply(200)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("order-42"):
                    response = await client.request("POST", server.url, json={"sku": "a"})
                assert response.status_code == 201
                await client.request("POST", server.url, json={"sku": "a"})
            assert keys(server) == ['"order-42"'] * 3 + [None]
            assert len({seen.body for seen in server.seen[:3]}) == 1

    web.runtime.run(body)


def test_without_a_key_a_post_that_broke_is_not_sent_again(web) -> None:
    async def body():
        with RawServer(BREAKS, reply(201)) as server:
            async with web.client(retrying()) as client:
                with pytest.raises(web.lib.HTTPError):
                    await client.request("POST", server.url, json={"sku": "a"})
            assert keys(server) == [None]

    web.runtime.run(body)


def test_hedges_carry_the_same_key(web) -> None:
    async def body():
        hedge = Hedge(after=0.05, idempotent="context", budget=None)
        with RawServer(then(0.4, reply(201, b"slow")), reply(201, b"fast")) as server:
            async with web.client(hedge) as client:
                with idempotency_key("k"):
                    response = await client.request("POST", server.url, content=b"a")
                assert response.content == b"fast"
                await web.runtime.until(lambda: client.busy == 0)
            assert keys(server) == ['"k"', '"k"']

    web.runtime.run(body)


def test_both_legs_of_an_authentication_carry_the_same_key(web) -> None:
    async def body():
        with RawServer(reply(401, b"no", WWW_Authenticate=DIGEST), reply(503), reply(201)) as server:
            async with web.client(retrying(), settings={"generate_keys": True}) as client:
                response = await client.request(
                    "POST", server.url, content=b"a", auth=web.lib.DigestAuth("me", "pw")
                )
            assert response.status_code == 201
            assert ["authorization" in seen.headers for seen in server.seen] == [False, True, True]
            assert len(set(keys(server))) == 1
            assert keys(server)[0] is not None

    web.runtime.run(body)


def test_methods_that_may_be_repeated_anyway_carry_none_and_do_not_use_the_block(web) -> None:
    async def body():
        with RawServer(reply(200)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("k"):
                    for method in ("GET", "PUT", "DELETE", "POST"):
                        await client.request(method, server.url)
            assert keys(server) == [None, None, None, '"k"']

    web.runtime.run(body)


def test_policies_are_told_the_key(web) -> None:
    async def body():
        slots = Slots()
        told: list[CallContext] = []

        def classify(outcome: Outcome[object], context: CallContext) -> Verdict:
            told.append(context)
            return http_verdict(outcome, context)

        with RawServer(reply(201)) as server:
            async with web.client(Pipeline("told", slots, classify=classify)) as client:
                with idempotency_key("k"):
                    await client.request("POST", server.url, content=b"a")
        assert {(context.idempotent, context.idempotency_key) for context in told} == {(False, "k")}

    web.runtime.run(body)


# --- one block, one request ---


@pytest.mark.parametrize(
    "second",
    [
        {"json": {"sku": "b"}},
        {"json": {"sku": "a"}, "params": {"dry": "1"}},
        {"content": b'{"sku":"a"}', "headers": {"content-type": "text/plain"}},
    ],
    ids=["body", "query", "kind"],
)
def test_a_second_different_request_in_a_block_is_an_error_and_is_not_sent(web, second) -> None:
    async def body():
        with RawServer(reply(201)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("k"):
                    await client.request("POST", server.url, json={"sku": "a"})
                    await client.request("POST", server.url, json={"sku": "a"})  # the same, once more
                    with pytest.raises(IdempotencyMismatchError):
                        await client.request("POST", server.url, **second)
            assert keys(server) == ['"k"', '"k"']

    web.runtime.run(body)


def test_a_second_request_to_another_host_is_a_different_one(web) -> None:
    async def body():
        with RawServer(reply(201)) as server, RawServer(reply(201)) as other:
            async with web.client(retrying()) as client:
                with idempotency_key("k"):
                    await client.request("POST", server.url, content=b"a")
                    with pytest.raises(IdempotencyMismatchError):
                        await client.request("POST", other.url, content=b"a")
            assert keys(other) == []

    web.runtime.run(body)


def test_uploads_are_told_apart_by_the_server(web) -> None:
    async def body():
        with RawServer(reply(201)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("k"):
                    for content in (b"one", b"two"):
                        files = {"file": io.BytesIO(content) if not web.is_async else content}
                        await client.request("POST", server.url, files=files)
            assert keys(server) == ['"k"', '"k"']
            assert server.seen[0].body != server.seen[1].body

    web.runtime.run(body)


def test_a_request_that_is_sent_again_in_another_block_has_the_key_of_that(web) -> None:
    async def body():
        with RawServer(reply(201)) as server:
            async with web.client(retrying()) as client:
                request = client.inner.build_request("POST", server.url, content=b"a")
                for key in ("one", "one", "two"):
                    with idempotency_key(key):
                        await client.send(request)
                await client.send(request)  # nothing says that it is another
            assert keys(server) == ['"one"', '"one"', '"two"', '"two"']

    web.runtime.run(body)


# --- the caller's own ---


def test_a_header_of_the_callers_wins_as_it_is_written(web) -> None:
    async def body():
        with RawServer(reply(503), reply(201)) as server:
            async with web.client(retrying(), settings={"generate_keys": True}) as client:
                with idempotency_key("block"):
                    await client.request(
                        "POST", server.url, content=b"a", headers={"IDEMPOTENCY-key": "mine"}
                    )
                    await client.request("POST", server.url, content=b"b")  # the block is still free
            assert keys(server) == ["mine", "mine", '"block"']

    web.runtime.run(body)


def test_one_request_can_say_its_key_or_that_it_has_none(web) -> None:
    async def body():
        with RawServer(reply(201)) as server:
            async with web.client(retrying(), settings={"generate_keys": True}) as client:
                with idempotency_key("block"):
                    for said in ("own", None):
                        extensions = {"idempotency_key": said}
                        await client.request("POST", server.url, content=b"a", extensions=extensions)
                    await client.request("POST", server.url, content=b"b")
            assert keys(server) == ['"own"', None, '"block"']

    web.runtime.run(body)


def test_a_key_that_is_none_is_refused_before_anything_is_sent(web) -> None:
    async def body():
        slots = Slots()
        with RawServer(reply(201)) as server:
            async with web.client(slots, settings={"bare_keys": True}) as client:
                for key in ("", "a,b", "ä"):
                    extensions = {"idempotency_key": key}
                    with pytest.raises(IdempotencyKeyError):
                        await client.request("POST", server.url, extensions=extensions)
            assert (server.seen, slots.verdicts) == ([], [])

    web.runtime.run(body)


# --- keys that are made ---


def test_each_request_that_needs_one_gets_a_key_of_its_own_where_that_is_set(web) -> None:
    async def body():
        with RawServer(reply(503), reply(201), reply(201), reply(200)) as server:
            async with web.client(retrying(), settings={"generate_keys": True}) as client:
                first = await client.request("POST", server.url, content=b"a")
                await client.request("POST", server.url, content=b"a")
                await client.get(server.url)
            one, again, other, none = keys(server)
            assert (one == again, one == other, none) == (True, False, None)
            assert uuid.UUID(one.strip('"')).version == 4
            assert first.request.extensions["resilience.idempotency"].key == one.strip('"')

    web.runtime.run(body)


def test_what_makes_keys_can_be_given_and_the_header_be_named_and_bare(web) -> None:
    async def body():
        numbers = iter(range(10))
        settings = {
            "generate_keys": lambda: f"key-{next(numbers)}",
            "bare_keys": True,
            "idempotency_header": "X-Once",
        }
        with RawServer(reply(503), reply(201)) as server:
            async with web.client(retrying(), settings=settings) as client:
                await client.request("PATCH", server.url, content=b"a")
            assert [seen.headers["x-once"] for seen in server.seen] == ["key-0", "key-0"]
            assert keys(server) == [None, None]

    web.runtime.run(body)


def test_without_a_header_there_are_no_keys(web) -> None:
    async def body():
        settings = {"generate_keys": True, "idempotency_header": None}
        with RawServer(reply(503), reply(201)) as server:
            async with web.client(retrying(), settings=settings) as client:
                with idempotency_key("k"):
                    response = await client.request("POST", server.url, content=b"a")
            assert (response.status_code, keys(server)) == (503, [None])

    web.runtime.run(body)


def test_settings_that_are_wrong_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        HttpSettings(generate_keys="uuid", bare_keys=None)  # type: ignore[arg-type]  # wrong on purpose
    assert [problem.setting for problem in caught.value.problems] == ["generate_keys", "bare_keys"]


def test_a_key_does_not_show_where_requests_are_printed(web) -> None:
    async def body():
        with RawServer(reply(201)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("secret"):
                    response = await client.request("POST", server.url, content=b"a")
        assert "secret" not in repr(response.request.extensions)

    web.runtime.run(body)


# --- redirects ---


@pytest.fixture(params=["block", "generated", "extension", "header"])
def way(request):
    """Each way in which a request gets its key."""
    return request.param


async def post(client, way, url):
    options = {
        "extension": {"extensions": {"idempotency_key": "k"}},
        "header": {"headers": {"Idempotency-Key": "k"}},
    }
    if way == "block":
        with idempotency_key("k"):
            return await client.request("POST", url, content=b"a")
    return await client.request("POST", url, content=b"a", **options.get(way, {}))


def redirected(web, way):
    return web.client(retrying(), settings={"generate_keys": way == "generated"}, follow_redirects=True)


def test_a_redirect_that_repeats_the_request_at_its_origin_carries_the_key_on(web, way) -> None:
    async def body():
        with RawServer(reply(307, Location="/next"), reply(503), reply(201)) as server:
            async with redirected(web, way) as client:
                assert (await post(client, way, server.url)).status_code == 201
            assert [seen.path for seen in server.seen] == ["/", "/next", "/next"]
            assert len(set(keys(server))) == 1
            assert None not in keys(server)

    web.runtime.run(body)


def test_a_redirect_to_another_origin_leaves_the_key_behind(web, way) -> None:
    async def body():
        with RawServer(reply(201)) as other, RawServer(reply(307, Location=other.url)) as server:
            async with redirected(web, way) as client:
                assert (await post(client, way, server.url)).status_code == 201
            assert None not in keys(server)
            assert [(seen.method, seen.body) for seen in other.seen] == [("POST", b"a")]
            assert keys(other) == [None]

    web.runtime.run(body)


def test_see_other_leaves_the_key_behind(web, way) -> None:
    async def body():
        with RawServer(reply(303, Location="/done"), reply(200)) as server:
            async with redirected(web, way) as client:
                assert (await post(client, way, server.url)).status_code == 200
            assert [seen.method for seen in server.seen] == ["POST", "GET"]
            assert keys(server)[0] is not None
            assert keys(server)[1] is None

    web.runtime.run(body)


def test_without_its_key_the_redirected_request_is_not_sent_again(web) -> None:
    async def body():
        with RawServer(BREAKS, reply(201)) as other, RawServer(reply(307, Location=other.url)) as server:
            async with redirected(web, "block") as client:
                with pytest.raises(web.lib.HTTPError):
                    await post(client, "block", server.url)
            assert keys(other) == [None]

    web.runtime.run(body)


# --- what an answer says ---


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_of_old_is_not_asked_for_again(web, status) -> None:
    async def body():
        with RawServer(reply(status, b"old", Idempotent_Replayed="true"), reply(201)) as server:
            async with web.client(retrying()) as client:
                with idempotency_key("k"):
                    response = await client.request("POST", server.url, content=b"a")
            assert (response.content, len(server.seen)) == (b"old", 1)

    web.runtime.run(body)
