"""Single calls to real sockets that misbehave: each call ends with its fault word, in time, and harms no other."""

from __future__ import annotations

import asyncio
import datetime
import errno
import gc
import os
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from integrations.outbound.addresses import parse_networks
from integrations.outbound.client import Call, Client
from integrations.outbound.connection import IDLE_PER_KEY, READ_CAP
from integrations.outbound.headers import FORBIDDEN_HEADERS, header_refusal
from integrations.outbound.outcome import Fault, Outcome
from integrations.outbound.own_listeners import Listener, OwnListeners, own_listeners
from integrations.outbound.transport import PinnedTransport
from tests.support.upstreams import GOOD, GZIP_BOMB, Upstream, Zoo, closes_idle_after, keeps_saying, says, status
from tests.support.waiting import soon

LOCAL = parse_networks("127.0.0.0/8")
PATIENCE = 3.0  # seconds until a test gives up
TOTAL = 0.4  # seconds; the deadline of calls that are meant to run into it


@pytest.fixture(scope="module")
def healthy(zoo: Zoo) -> Upstream:
    return zoo.serve("healthy")


def post(url: str, **fields: Any) -> Call:
    usual: dict[str, Any] = {"method": "POST", "body": b'{"n":1}', "total_timeout": 5.0, "allowed": LOCAL}
    return Call(url=url, **(usual | fields))


def sent(*calls: Call, client: Callable[[], Client] = Client) -> list[Outcome]:
    """Return the outcomes of calls that one client makes in sequence."""

    async def run() -> list[Outcome]:
        one = client()
        try:
            return [await one.send(call) for call in calls]
        finally:
            await one.aclose()

    return asyncio.run(run())


def with_client(act: Callable[[Client, PinnedTransport], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        transport = PinnedTransport(**options)
        client = Client(transport)
        try:
            await act(client, transport)
        finally:
            await client.aclose()

    asyncio.run(run())


def resolver(*answers: list[str]) -> Callable[[str, int], Awaitable[list[str]]]:
    """Make a resolver that returns each list once, and the last one forever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


# ---- behaviours of an upstream, and their outcomes ------------------------------------------------------------------
ANSWERED = [
    ("healthy", b'{"ok":true}'),
    ("slow", b'{"ok":true}'),
    ("closing", b"ok"),
    ("http_1_0", b"until the end"),
    ("until_the_end", b"until the end"),
    ("chunked", b"until the end"),
    ("some_interim", b'{"ok":true}'),
    ("two_answers", b'{"ok":true}'),
    ("answer_and_junk", b'{"ok":true}'),
    ("gzip_bomb", GZIP_BOMB),
    ("wrong_encoding", b"plain"),
    ("body_on_204", b""),
    ("odd_headers", b"ok"),
]


@pytest.mark.parametrize(("animal", "body"), ANSWERED, ids=[name for name, _ in ANSWERED])
def test_a_complete_response_is_a_success(zoo: Zoo, animal: str, body: bytes) -> None:
    upstream = zoo.serve(animal)
    for outcome in sent(post(upstream.url), post(upstream.url)):
        assert outcome.fault is None, outcome
        assert outcome.status_code in (200, 204)
        assert (outcome.body, outcome.size, outcome.truncated) == (body, len(body), False)
        assert outcome.peer == f"127.0.0.1:{upstream.port}"
    assert len(upstream.requests) == 2


FAULTS = [
    ("silent", Fault.TIMEOUT, "no response within 0.4 s"),
    ("mute", Fault.TIMEOUT, "no response within 0.4 s"),
    ("dripping", Fault.TIMEOUT, "not complete within 0.4 s"),
    ("stops_within_body", Fault.TIMEOUT, "4 bytes of its body arrived"),
    ("closes_at_once", Fault.RESET, "before it responded"),
    ("closes_before_answer", Fault.RESET, "closed the connection before it responded"),
    ("resets_before_answer", Fault.RESET, "reset the connection before it responded"),
    ("resets_within_body", Fault.RESET, "while it sent the response"),
    ("closes_within_head", Fault.PROTOCOL, "within the headers"),
    ("closes_after_interim", Fault.PROTOCOL, "within the headers"),
    ("closes_within_body", Fault.PROTOCOL, "incomplete: 4 bytes"),
    ("closes_within_chunk", Fault.PROTOCOL, "incomplete: 4 bytes"),
    ("garbage", Fault.PROTOCOL, "not valid HTTP"),
    ("ssh_banner", Fault.PROTOCOL, "not valid HTTP"),
    ("http_0_9", Fault.PROTOCOL, "not valid HTTP"),
    ("http_0_9_line", Fault.PROTOCOL, "not HTTP/1.1"),
    ("http_2", Fault.PROTOCOL, "not HTTP/1.1"),
    ("bad_chunk", Fault.PROTOCOL, "not valid HTTP"),
    ("bad_length", Fault.PROTOCOL, "not valid HTTP"),
    ("two_lengths", Fault.PROTOCOL, "not valid HTTP"),
    ("length_and_chunks", Fault.PROTOCOL, "not valid HTTP"),
    ("header_injection", Fault.PROTOCOL, "not valid HTTP"),
    ("huge_header", Fault.PROTOCOL, "larger than 64 KiB"),
    ("endless_header", Fault.PROTOCOL, "larger than 64 KiB"),
    ("many_headers", Fault.PROTOCOL, "more than 200 headers"),
    ("many_interim", Fault.PROTOCOL, "more than 100 interim responses"),
    ("switches", Fault.PROTOCOL, "another protocol"),
    ("redirect", Fault.STATUS, "answered 302 Found"),
    ("failing", Fault.STATUS, "answered 503 Service Unavailable"),
    ("length_on_304", Fault.STATUS, "answered 304 Not Modified"),
]


@pytest.mark.parametrize(("animal", "fault", "words"), FAULTS, ids=[animal for animal, _, _ in FAULTS])
def test_a_misbehaving_upstream_ends_in_its_fault_word_and_harms_no_other_call(
    zoo: Zoo, healthy: Upstream, animal: str, fault: Fault, words: str
) -> None:
    upstream = zoo.serve(animal)
    bad, good = sent(post(upstream.url, total_timeout=TOTAL), post(healthy.url))
    assert bad.fault is fault, bad
    assert words in bad.detail
    assert "\n" not in bad.detail
    assert bad.timings.total <= TOTAL + 0.3
    assert (bad.status_code is not None) == (fault is Fault.STATUS)
    assert bad.peer == f"127.0.0.1:{upstream.port}"
    assert good.succeeded


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("000", Fault.PROTOCOL),
        ("099", Fault.PROTOCOL),
        ("101", Fault.PROTOCOL),
        ("200", None),
        ("204", None),
        ("226", None),
        ("299", None),
        ("300", Fault.STATUS),
        ("304", Fault.STATUS),
        ("400", Fault.STATUS),
        ("410", Fault.STATUS),
        ("429", Fault.STATUS),
        ("451", Fault.STATUS),
        ("500", Fault.STATUS),
        ("599", Fault.STATUS),
        ("600", Fault.STATUS),
        ("999", Fault.STATUS),
        ("99", Fault.PROTOCOL),
        ("1000", Fault.PROTOCOL),
        ("2x0", Fault.PROTOCOL),
    ],
)
def test_a_status_means_what_the_table_says(zoo: Zoo, code: str, fault: Fault | None) -> None:
    [outcome] = sent(post(zoo.serve(keeps_saying(status(code))).url, total_timeout=2.0))
    assert outcome.fault is fault
    if fault is not Fault.PROTOCOL:
        assert outcome.status_code == int(code)


def test_interim_responses_are_skipped_until_the_real_one(zoo: Zoo) -> None:
    upstream = zoo.serve(keeps_saying(b"HTTP/1.1 199 Odd\r\n\r\n", 0.02, GOOD))
    [outcome] = sent(post(upstream.url))
    assert outcome.status_code == 200


@pytest.mark.parametrize("animal", ["endless", "endless_chunks"])
def test_an_endless_body_is_read_to_the_cap_and_the_connection_closed(zoo: Zoo, animal: str) -> None:
    upstream = zoo.serve(animal)

    async def act(client: Client, transport: PinnedTransport) -> None:
        outcome = await client.send(post(upstream.url, keep=100))
        assert outcome.succeeded
        assert outcome.truncated
        assert outcome.body == b"x" * 100
        assert READ_CAP // 10 < outcome.size <= READ_CAP
        assert transport.idle_count == 0
        await soon(lambda: upstream.open_now == 0, PATIENCE)

    with_client(act)


@pytest.mark.parametrize(
    ("length", "keep", "kept", "truncated", "connections"),
    [
        (0, 100, 0, False, 1),
        (99, 100, 99, False, 1),
        (100, 100, 100, False, 1),
        (101, 100, 100, True, 1),
        (READ_CAP, 100, 100, True, 1),
        (READ_CAP, READ_CAP, READ_CAP, False, 1),
        (READ_CAP + 1, READ_CAP, READ_CAP, True, 2),
        (50, 0, 0, True, 1),
    ],
)
def test_the_bytes_read_and_the_bytes_kept_have_separate_caps(
    zoo: Zoo, length: int, keep: int, kept: int, truncated: bool, connections: int
) -> None:
    upstream = zoo.serve(keeps_saying(status(200, b"x" * length)))
    first, second = sent(post(upstream.url, keep=keep), post(upstream.url, keep=keep))
    assert (len(first.body), first.size, first.truncated) == (kept, min(length, READ_CAP), truncated)
    assert replace(first, timings=second.timings) == second
    assert upstream.connections == connections


def test_a_head_request_has_no_body_whatever_its_length_says(zoo: Zoo) -> None:
    outcome, again = sent(*[post(zoo.serve("head").url, method="HEAD", body=b"")] * 2)
    assert outcome.succeeded
    assert again.succeeded
    assert (outcome.body, outcome.header("content-length")) == (b"", "5")


def test_response_headers_are_kept_as_text_that_can_be_shown(zoo: Zoo) -> None:
    lines = [b"X-Raw: caf\xe9", b"X-Control: a\x85b", b"X-Tab: a\tb", b"X-Dup: 1", b"x-dup: 2"]
    [outcome] = sent(post(zoo.serve(says(status(200, b"", *lines))).url))
    assert outcome.header("x-raw") == "café"
    assert outcome.header("x-control") == "a\\x85b"
    assert outcome.header("x-tab") == "a\tb"
    assert [value for name, value in outcome.headers if name.lower() == "x-dup"] == ["1", "2"]


def test_no_more_response_headers_are_kept_than_a_row_should_hold(zoo: Zoo) -> None:
    many = [b"X-%d: y" % n for n in range(150)]
    large = [b"X-%d: %s" % (n, b"y" * 5000) for n in range(10)]
    [first] = sent(post(zoo.serve(says(status(200, b"", *many))).url))
    [second] = sent(post(zoo.serve(says(status(200, b"", *large))).url))
    assert len(first.headers) == 100
    assert sum(len(name) + len(value) for name, value in second.headers) <= 16 * 1024


@pytest.mark.alone  # within a second, and the upstream closes it after two
def test_a_response_before_the_request_is_read_closes_the_connection(zoo: Zoo) -> None:
    upstream = zoo.serve("answers_before_reading")

    async def act(client: Client, transport: PinnedTransport) -> None:
        before = open_files()
        outcome = await client.send(post(upstream.url, body=b"x" * 50_000_000))
        assert outcome.status_code == 413
        assert transport.idle_count == 0
        await soon(lambda: open_files() <= before + 1, 1.0)  # the other one is the server's

    with_client(act)


# ---- connecting -----------------------------------------------------------------------------------------------------
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port that accepts no connection: the kernel drops the SYN, as a firewall would."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


def test_a_closed_port_refuses_the_connection() -> None:
    port = closed_port()
    [outcome] = sent(post(f"http://127.0.0.1:{port}/"))
    assert outcome.fault is Fault.CONNECT
    assert outcome.detail == f"connection refused by 127.0.0.1:{port}"


def test_a_swallowed_connection_ends_at_the_connect_timeout(full_backlog: int) -> None:
    [outcome] = sent(post(f"http://127.0.0.1:{full_backlog}/", connect_timeout=0.3))
    assert outcome.fault is Fault.CONNECT
    assert outcome.detail == f"no connection to 127.0.0.1:{full_backlog} within 0.3 s"
    assert 0.25 < outcome.timings.total < 0.7
    assert outcome.timings.connect == pytest.approx(0.3, abs=0.2)


def test_a_total_timeout_that_is_shorter_than_the_connect_timeout_holds(full_backlog: int) -> None:
    [outcome] = sent(post(f"http://127.0.0.1:{full_backlog}/", connect_timeout=5, total_timeout=0.3))
    assert outcome.fault is Fault.TIMEOUT
    assert "no connection within 0.3 s" in outcome.detail
    assert outcome.timings.total < 0.7


def test_the_next_address_is_tried_within_the_same_time(healthy: Upstream, full_backlog: int) -> None:
    async def act(client: Client, _: PinnedTransport) -> None:
        outcome = await client.send(post(healthy.url_for("two.example")))
        assert outcome.succeeded
        assert outcome.peer.startswith("127.0.0.1:")

    # Nothing listens on the healthy port of 127.0.0.77.
    with_client(act, resolve=resolver(["127.0.0.77", "127.0.0.1"]))


def test_a_name_that_does_not_exist_is_a_dns_fault() -> None:
    [outcome] = sent(post("http://nothing.invalid/"))
    assert outcome.fault is Fault.DNS
    assert outcome.detail.startswith("nothing.invalid has no address")
    assert outcome.timings.dns is not None


def test_a_name_that_has_no_address_at_all_is_a_dns_fault() -> None:
    async def act(client: Client, _: PinnedTransport) -> None:
        assert (await client.send(post("http://empty.example/"))).fault is Fault.DNS

    with_client(act, resolve=resolver([]))


def test_a_resolver_that_never_returns_counts_in_the_deadline_and_is_called_once_for_all() -> None:
    asked = 0

    async def never(host: str, port: int) -> list[str]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(60)
        return []

    async def act(client: Client, _: PinnedTransport) -> None:
        calls = [post("http://dead.example/", connect_timeout=0.2) for _ in range(20)]
        calls.append(post("http://dead.example/", total_timeout=0.2))
        outcomes = await asyncio.gather(*[client.send(call) for call in calls])
        assert {outcome.fault for outcome in outcomes[:-1]} == {Fault.DNS}
        assert outcomes[0].detail == "dead.example was not resolved within 0.2 s"
        assert outcomes[-1].fault is Fault.TIMEOUT
        assert max(outcome.timings.total for outcome in outcomes) < 0.6
        assert asked == 1

    with_client(act, resolve=never)


# ---- TLS ------------------------------------------------------------------------------------------------------------
class Certificates:
    """An authority that the client under test trusts, and one that it does not trust."""

    def __init__(self) -> None:
        self.known, self.unknown = trustme.CA(), trustme.CA()

    def server(self, *names: str, authority: trustme.CA | None = None, **fields: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (authority or self.known).issue_cert(*names, **fields).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.known.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


def days(count: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=count)


def old_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def asks_for_a_certificate(context: ssl.SSLContext) -> ssl.SSLContext:
    context.verify_mode = ssl.CERT_REQUIRED
    return context


BAD_TLS: list[tuple[str, Callable[[Certificates], ssl.SSLContext | None], str]] = [
    ("wrong host", lambda c: c.server("other.example"), "another host name"),
    ("unknown authority", lambda c: c.server("secure.example", authority=c.unknown), "does not trust"),
    (
        "expired",
        lambda c: c.server("secure.example", not_before=days(-9), not_after=days(-2)),
        "the certificate has expired",
    ),
    ("early", lambda c: c.server("secure.example", not_before=days(2), not_after=days(9)), "not valid yet"),
    ("plain", lambda c: None, "does not speak TLS"),
]


@pytest.mark.parametrize(("context", "words"), [case[1:] for case in BAD_TLS], ids=[case[0] for case in BAD_TLS])
def test_a_server_that_cannot_prove_its_identity_gets_no_request(
    zoo: Zoo, certificates: Certificates, context: Callable[[Certificates], ssl.SSLContext | None], words: str
) -> None:
    tls = context(certificates)
    upstream = zoo.serve("healthy" if tls else "answers_anything", tls=tls)
    upstream.scheme = "https"

    async def act(client: Client, transport: PinnedTransport) -> None:
        outcome = await client.send(post(upstream.url_for("secure.example"), total_timeout=2.0))
        assert outcome.fault is Fault.TLS, outcome
        assert words in outcome.detail
        assert outcome.timings.tls is not None
        assert upstream.requests == []
        assert transport.idle_count == 0

    with_client(act, resolve=resolver(["127.0.0.1"]), ssl_context=certificates.client())


def test_a_certificate_with_the_host_in_its_common_name_alone_is_refused(
    zoo: Zoo, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The transport's own context: OpenSSL by itself takes the common name of a certificate without a host name."""
    authority = tmp_path / "authority.pem"
    certificates.known.cert_pem.write_to_path(str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    named = zoo.serve("healthy", tls=certificates.server("secure.example"))
    unnamed = zoo.serve("healthy", tls=certificates.server("ops@secure.example", common_name="secure.example"))
    named.scheme = unnamed.scheme = "https"

    async def act(client: Client, transport: PinnedTransport) -> None:
        assert (await client.send(post(named.url_for("secure.example")))).succeeded
        outcome = await client.send(post(unnamed.url_for("secure.example")))
        assert outcome.fault is Fault.TLS
        assert "another host name" in outcome.detail
        assert unnamed.requests == []

    with_client(act, resolve=resolver(["127.0.0.1"]))


@contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[int]:
    """A server that sends its reason for refusing a handshake, which asyncio's servers do not."""

    def serve() -> None:
        sock, _ = server.accept()
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as tls:
            with suppress(ssl.SSLError):
                tls.do_handshake()
            with socket.socket(fileno=os.dup(tls.fileno())) as plain:
                while plain.recv(65_536):  # closing with something unread would reset the connection
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(2.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("demand", "words"),
    [(old_tls, "another version of TLS"), (asks_for_a_certificate, "requires a client certificate")],
)
def test_a_server_with_unmet_demands_is_a_tls_fault(
    certificates: Certificates, demand: Callable[[ssl.SSLContext], ssl.SSLContext], words: str
) -> None:
    async def act(client: Client, _: PinnedTransport) -> None:
        outcome = await client.send(post(f"https://127.0.0.1:{port}/", total_timeout=2.0))
        assert outcome.fault is Fault.TLS, outcome
        assert words in outcome.detail

    with blocking_server(demand(certificates.server("127.0.0.1"))) as port:
        with_client(act, ssl_context=certificates.client())


@pytest.mark.parametrize("host", ["secure.example", "secure.example.", "127.0.0.1"])
def test_a_checked_address_is_dialled_under_the_original_name(zoo: Zoo, certificates: Certificates, host: str) -> None:
    named = []
    context = certificates.server("secure.example", "127.0.0.1")
    context.sni_callback = lambda sock, name, _: named.append(name)
    upstream = zoo.serve("healthy", tls=context)

    async def act(client: Client, _: PinnedTransport) -> None:
        first = await client.send(post(upstream.url_for(host)))
        second = await client.send(post(upstream.url_for(host)))
        assert first.succeeded, first
        assert second.succeeded
        assert first.timings.tls
        assert second.timings.tls is None
        assert upstream.connections == 1
        assert f"\r\nHost: {host}:{upstream.port}\r\n".encode() in upstream.requests[0]
        assert named == [None if host == "127.0.0.1" else "secure.example"]

    with_client(act, resolve=resolver(["127.0.0.1"]), ssl_context=certificates.client())


def test_certificates_are_reported_once_for_each_new_connection(zoo: Zoo, certificates: Certificates) -> None:
    until = days(9).replace(microsecond=0)
    secure = zoo.serve("healthy", tls=certificates.server("secure.example", not_after=until))
    plain = zoo.serve("healthy")

    async def act(client: Client, _: PinnedTransport) -> None:
        for upstream in (secure, plain, secure):
            assert (await client.send(post(upstream.url_for("secure.example")))).succeeded
        [certificate] = client.take_certificates()
        assert certificate == (f"secure.example:{secure.port}", "trustme v" + version("trustme"), until)
        assert (await client.send(post(secure.url_for("secure.example")))).succeeded
        assert client.take_certificates() == [], "the connection is the same"

    with_client(act, resolve=resolver(["127.0.0.1"]), ssl_context=certificates.client())


def test_a_tls_handshake_that_hangs_ends_at_the_connect_timeout(zoo: Zoo) -> None:
    upstream = zoo.serve("mute")
    [outcome] = sent(post(f"https://127.0.0.1:{upstream.port}/", connect_timeout=0.3))
    assert outcome.fault is Fault.TLS
    assert "no TLS handshake" in outcome.detail
    assert outcome.timings.total < 0.8


def test_a_connection_closed_within_the_handshake_is_a_tls_fault(zoo: Zoo) -> None:
    upstream = zoo.serve("closes_at_once")
    [outcome] = sent(post(f"https://127.0.0.1:{upstream.port}/"))
    assert outcome.fault is Fault.TLS


# ---- permitted addresses --------------------------------------------------------------------------------------------
def test_a_private_address_is_blocked_until_it_is_allowed(healthy: Upstream) -> None:
    blocked, allowed = sent(post(healthy.url, allowed=()), post(healthy.url))
    assert blocked.fault is Fault.BLOCKED
    assert "127.0.0.1 is a loopback address" in blocked.detail
    assert allowed.succeeded


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]", "127.0.0.1."])
def test_no_spelling_leads_around_the_block(healthy: Upstream, host: str) -> None:
    before = healthy.connections
    [outcome] = sent(post(healthy.url_for(host), allowed=()))
    assert outcome.fault is Fault.BLOCKED
    assert healthy.connections == before


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "[fd00:ec2::254]", "2852039166"])
def test_a_metadata_service_is_blocked_whatever_is_allowed(host: str) -> None:
    [outcome] = sent(post(f"http://{host}/latest", allowed=parse_networks("0.0.0.0/0, ::/0")))
    assert outcome.fault is Fault.BLOCKED
    assert "metadata" in outcome.detail


def test_a_name_with_one_forbidden_answer_is_blocked(healthy: Upstream) -> None:
    before = healthy.connections

    async def act(client: Client, _: PinnedTransport) -> None:
        outcome = await client.send(post(healthy.url_for("two.example"), allowed=()))
        assert outcome.fault is Fault.BLOCKED
        assert healthy.connections == before

    with_client(act, resolve=resolver(["93.184.216.34", "127.0.0.1"]))


def test_a_name_that_moves_to_a_forbidden_address_is_blocked_at_the_next_connection(zoo: Zoo) -> None:
    upstream = zoo.serve("closing")

    async def act(client: Client, _: PinnedTransport) -> None:
        assert (await client.send(post(upstream.url_for("moving.example")))).succeeded
        outcome = await client.send(post(upstream.url_for("moving.example")))
        assert outcome.fault is Fault.BLOCKED
        assert upstream.connections == 1

    with_client(act, resolve=resolver(["127.0.0.1"], ["10.0.0.1"]))


def test_a_connection_of_one_service_is_not_used_by_another_that_is_allowed_less(healthy: Upstream) -> None:
    async def act(client: Client, transport: PinnedTransport) -> None:
        assert (await client.send(post(healthy.url))).succeeded
        assert transport.idle_count == 1
        assert (await client.send(post(healthy.url, allowed=()))).fault is Fault.BLOCKED
        assert (await client.send(post(healthy.url, allowed=parse_networks("10.0.0.0/8")))).fault is Fault.BLOCKED

    with_client(act)


def test_calls_of_two_services_to_one_server_share_no_connection(zoo: Zoo) -> None:
    """A hostile server could send a second response on it, for which HTTP/1.1 has no request but the next one."""
    upstream = zoo.serve("healthy")
    calls = [post(upstream.url, service=name) for name in ("billing", "billing", "crm", "billing", "crm")]
    assert all(outcome.succeeded for outcome in sent(*calls))
    assert upstream.connections == 2


def listening_on(port: int) -> OwnListeners:
    return own_listeners([Listener("console", port, is_here=True)])


def test_the_consoles_own_port_is_never_a_target(healthy: Upstream) -> None:
    [outcome] = sent(post(healthy.url), client=lambda: Client(own_listeners=lambda: listening_on(healthy.port)))
    assert outcome.fault is Fault.BLOCKED
    assert outcome.detail == f"port {healthy.port} of 127.0.0.1 is Switchboard's own console, which it never calls"


def test_an_open_connection_ends_when_its_port_becomes_the_consoles_own(zoo: Zoo) -> None:
    upstream, known = zoo.serve("healthy"), [OwnListeners()]

    async def act(client: Client, transport: PinnedTransport) -> None:
        assert (await client.send(post(upstream.url))).succeeded
        assert (await client.send(post(upstream.url))).succeeded
        assert upstream.connections == 1
        known[0] = listening_on(upstream.port)
        assert (await client.send(post(upstream.url))).fault is Fault.BLOCKED
        assert len(upstream.requests) == 2

    with_client(act, own_listeners=lambda: known[0])


def test_redirects_are_not_followed(zoo: Zoo) -> None:
    upstream = zoo.serve("redirect")
    [outcome] = sent(post(upstream.url))
    assert (outcome.status_code, outcome.header("location")) == (302, "http://169.254.169.254/latest/")
    assert len(upstream.requests) == 1


def test_the_environments_proxies_are_ignored(healthy: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    [outcome] = sent(post(healthy.url))
    assert outcome.succeeded


# ---- connections ----------------------------------------------------------------------------------------------------
def test_a_connection_is_kept_for_the_next_call(zoo: Zoo) -> None:
    upstream = zoo.serve("healthy")
    first, second = sent(post(upstream.url_for("localhost")), post(upstream.url_for("localhost")))
    assert upstream.connections == 1
    assert None not in (first.timings.dns, first.timings.connect, first.timings.first_byte)
    assert (second.timings.dns, second.timings.connect) == (None, None)
    assert first.timings.tls is None


def test_a_connection_that_the_server_closed_while_idle_is_not_used(zoo: Zoo) -> None:
    upstream = zoo.serve(closes_idle_after(0.1))

    async def act(client: Client, transport: PinnedTransport) -> None:
        assert (await client.send(post(upstream.url))).succeeded
        await soon(lambda: transport.idle_count == 0, PATIENCE)
        assert (await client.send(post(upstream.url))).succeeded
        time.sleep(0.3)  # a busy loop, which has not yet read the end of the connection
        assert (await client.send(post(upstream.url))).succeeded
        assert upstream.connections == 3

    with_client(act)


def test_a_connection_that_ends_under_a_request_is_reported_and_nothing_is_sent_twice(zoo: Zoo) -> None:
    upstream = zoo.serve("closes_instead_of_second_answer")
    outcomes = sent(*[post(upstream.url)] * 4)
    assert [outcome.fault for outcome in outcomes] == [None, Fault.RESET, None, Fault.RESET]
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("animal", ["two_answers", "answer_and_junk", "late_second_answer", "body_on_204"])
def test_a_connection_with_unrequested_bytes_is_not_used_again(zoo: Zoo, animal: str) -> None:
    upstream = zoo.serve(animal)

    async def act(client: Client, transport: PinnedTransport) -> None:
        assert (await client.send(post(upstream.url))).succeeded
        await asyncio.sleep(0.1)
        assert transport.idle_count == 0
        assert (await client.send(post(upstream.url))).succeeded
        assert upstream.connections == 2

    with_client(act)


@pytest.mark.slow
def test_idle_connections_are_bounded_and_expire(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.outbound.connection.IDLE_FOR", 2.0)
    upstream = zoo.serve("slow")

    async def act(client: Client, transport: PinnedTransport) -> None:
        outcomes = await asyncio.gather(*[client.send(post(upstream.url)) for _ in range(IDLE_PER_KEY + 20)])
        assert all(outcome.succeeded for outcome in outcomes)
        assert transport.idle_count == IDLE_PER_KEY
        await soon(lambda: transport.idle_count == 0 and upstream.open_now == 0, 6.0)

    with_client(act)


def test_a_busy_connection_is_replaced_after_a_while(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.outbound.connection.OPEN_FOR", 0.0)
    upstream = zoo.serve("healthy")
    sent(post(upstream.url), post(upstream.url))
    assert upstream.connections == 2


def test_a_cancelled_call_closes_its_connection(zoo: Zoo) -> None:
    upstream = zoo.serve("silent")

    async def act(client: Client, transport: PinnedTransport) -> None:
        call = asyncio.create_task(client.send(post(upstream.url)))
        await soon(lambda: len(upstream.requests) == 1, PATIENCE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await soon(lambda: upstream.open_now == 0, PATIENCE)
        assert transport.idle_count == 0

    with_client(act)


def test_closing_the_client_ends_its_calls_and_refuses_new_ones(zoo: Zoo) -> None:
    upstream = zoo.serve("silent")

    async def act(client: Client, _: PinnedTransport) -> None:
        call = asyncio.create_task(client.send(post(upstream.url)))
        await soon(lambda: len(upstream.requests) == 1, PATIENCE)
        await client.aclose()
        assert (await call).fault is Fault.RESET
        assert (await client.send(post(upstream.url))).fault is Fault.CONNECT
        await soon(lambda: upstream.open_now == 0, PATIENCE)

    with_client(act)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_hundred_mixed_calls_leave_nothing_behind(
    zoo: Zoo, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.setattr("integrations.outbound.connection.IDLE_FOR", 0.3)
    names = ["healthy", "silent", "dripping", "resets_within_body", "garbage", "endless", "two_answers", "closing"]
    upstreams = [zoo.serve(name) for name in names]
    upstreams.append(zoo.serve("healthy", tls=certificates.server("127.0.0.1")))
    upstreams.append(zoo.serve("healthy", tls=certificates.server("other.example")))
    upstreams.append(Upstream("http", closed_port()))
    upstreams.append(Upstream("https", zoo.serve("mute").port))

    async def run() -> None:
        transport = PinnedTransport(ssl_context=certificates.client())
        client = Client(transport)
        await client.send(post(upstreams[0].url))
        await soon(lambda: transport.idle_count == 0 and upstreams[0].open_now == 0, PATIENCE)
        await asyncio.sleep(0.05)
        files, tasks = open_files(), len(asyncio.all_tasks())
        calls = [
            asyncio.create_task(client.send(post(upstreams[n % len(upstreams)].url, total_timeout=0.3)))
            for n in range(200)
        ]
        await asyncio.sleep(0.1)
        for call in calls[::10]:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, (Outcome, asyncio.CancelledError)) for outcome in outcomes)
        assert (await client.send(post(upstreams[0].url))).succeeded
        await soon(lambda: transport.idle_count == 0 and not transport._busy, PATIENCE)
        await soon(lambda: open_files() <= files, PATIENCE)
        assert len(asyncio.all_tasks()) == tasks
        await client.aclose()

    if loop == "uvloop":
        import uvloop

        uvloop.run(run())
    else:
        asyncio.run(run())


# ---- the request ----------------------------------------------------------------------------------------------------
def test_the_request_on_the_wire_is_what_the_call_says(zoo: Zoo) -> None:
    upstream = zoo.serve("healthy")
    headers = (("Content-Type", "application/json"), ("webhook-id", "msg_1"), ("X-Raw", "café"))
    sent(post(f"{upstream.url}?a=1&b=ü", headers=headers))
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    assert line == b"POST /hook?a=1&b=%C3%BC HTTP/1.1"
    assert sorted(lines) == sorted(
        [
            f"Host: 127.0.0.1:{upstream.port}".encode(),
            b"Connection: keep-alive",
            b"Content-Length: 7",
            b"Content-Type: application/json",
            b"webhook-id: msg_1",
            b"X-Raw: caf\xe9",
            b"Accept-Encoding: identity",
            b"User-Agent: Switchboard",
        ]
    )
    assert body == b'{"n":1}'


def test_a_callers_own_agent_and_encoding_win(zoo: Zoo) -> None:
    upstream = zoo.serve("healthy")
    sent(post(upstream.url, headers=(("user-agent", "me"), ("Accept-Encoding", "gzip"))))
    assert b"user-agent: me\r\n" in upstream.requests[0]
    assert b"Accept-Encoding: gzip" in upstream.requests[0]
    assert b"identity" not in upstream.requests[0]
    assert b"Switchboard" not in upstream.requests[0]


@pytest.mark.parametrize(
    ("method", "body", "length"), [("GET", b"", None), ("POST", b"", b"0"), ("DELETE", b"x", b"1"), ("put", b"", b"0")]
)
def test_a_request_states_its_length_where_it_has_one(zoo: Zoo, method: str, body: bytes, length: bytes | None) -> None:
    upstream = zoo.serve("healthy")
    [outcome] = sent(post(upstream.url, method=method, body=body))
    assert outcome.succeeded
    assert (b"Content-Length" in upstream.requests[0]) == (length is not None)
    assert length is None or b"Content-Length: %s\r\n" % length in upstream.requests[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://example.com/"},
        {"url": "http://user:secret@example.com/"},
        {"url": "http://example.com:70000/"},
        {"url": "http://xn--a/"},
        {"url": "http://a..b/"},
        {"url": "http://exa mple/"},
        {"url": "http://example.com/\r\nX: y"},
        {"url": "http://example.com/" + "a" * 9_000},
        {"url": "http://\udcff/"},
        {"url": "http://example.com/\udcff"},
        {"url": None},
        {"method": "CONNECT"},
        {"method": "GET /"},
        {"method": ""},
        {"method": "PÖST"},
        {"headers": (("X-A", "a\r\nX-B: b"),)},
        {"headers": (("X-A", "a\x00"),)},
        {"headers": (("X A", "b"),)},
        {"headers": (("X-A:", "b"),)},
        {"headers": (("", "b"),)},
        {"headers": (("X-A", "snowman ☃"),)},
        {"headers": (("X-A", "\udcff"),)},
        {"headers": (("X-A", "b" * 9_000),)},
        {"headers": (("Content-Length", "3"),)},
        {"headers": (("transfer-encoding", "chunked"),)},
        {"headers": (("HOST", "other.example"),)},
        {"headers": (("Proxy-Anything", "b"),)},
        {"headers": (("X-A", None),)},
        {"headers": 7},
        {"body": "text"},
        {"body": None},
        {"total_timeout": 0},
        {"total_timeout": float("nan")},
        {"connect_timeout": float("inf")},
        {"connect_timeout": "5"},
    ],
    ids=str,
)
def test_a_request_that_cannot_be_built_is_a_config_fault_without_its_secrets(
    healthy: Upstream, fields: dict[str, Any]
) -> None:
    before = healthy.connections
    [outcome] = sent(post(**{"url": healthy.url} | fields))
    assert outcome.fault is Fault.CONFIG, outcome
    assert outcome.detail
    assert "secret" not in outcome.detail
    assert "\n" not in outcome.detail
    assert healthy.connections == before


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [
        *[(name.title(), "x", False) for name in sorted(FORBIDDEN_HEADERS)],
        *[(name, "x", True) for name in sorted(FORBIDDEN_HEADERS)],
        ("Proxy-Authorization", "x", False),
        ("Proxy-Foo", "x", True),
        ("webhook-id", "x", False),
        ("Webhook-Signature", "x", False),
        ("X-A", "a\nb", True),
        ("X-A", "a\x7fb", False),
        ("X-A", "☃", False),
        ("X-A", "b" * 8_193, False),
        ("X" * 257, "b", False),
        ("X\r\nY", "b", False),
        ("Ü", "b", False),
        ("", "", False),
    ],
)
def test_a_header_that_cannot_be_set_is_refused_with_a_reason(name: str, value: str, own: bool) -> None:
    words = header_refusal(name, value, own=own)
    assert words
    assert value not in words or len(value) < 2


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [("X-A", "", False), ("Authorization", "Bearer x", False), ("X-A", "a\tcafé", False), ("webhook-id", "m", True)],
)
def test_a_header_that_can_be_set_passes(name: str, value: str, own: bool) -> None:
    assert header_refusal(name, value, own=own) is None


# ---- other transports -----------------------------------------------------------------------------------------------
def mocked(answer: Callable[[httpx.Request], Any], **fields: Any) -> Outcome:
    [outcome] = sent(post("http://api.example.com/x", **fields), client=lambda: Client(httpx.MockTransport(answer)))
    return outcome


def test_a_mock_transport_behaves_like_an_upstream() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={"id": 7}, headers={"X-A": "b"})

    outcome = mocked(answer, headers=(("X-B", "c"),))
    assert (outcome.status_code, outcome.body, outcome.header("x-a")) == (201, b'{"id":7}', "b")
    assert seen[0].content == b'{"n":1}'
    assert seen[0].headers["x-b"] == "c"


def test_the_deadline_and_the_cap_hold_for_any_transport() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(10)
        raise AssertionError

    async def drip() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    assert mocked(slow, total_timeout=0.1).fault is Fault.TIMEOUT
    assert mocked(lambda request: httpx.Response(200, content=drip()), total_timeout=0.2).fault is Fault.TIMEOUT
    large = mocked(lambda request: httpx.Response(200, content=b"x" * (READ_CAP + 1)))
    assert (large.size, large.truncated, len(large.body)) == (READ_CAP, True, 65_536)


def connect_error(cause: Exception) -> httpx.ConnectError:
    error = httpx.ConnectError("failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (httpx.ConnectError("refused"), Fault.CONNECT),
        (connect_error(socket.gaierror(-2, "unknown")), Fault.DNS),
        (connect_error(ssl.SSLError("bad")), Fault.TLS),
        (httpx.ConnectTimeout("slow"), Fault.CONNECT),
        (httpx.ReadTimeout("slow"), Fault.TIMEOUT),
        (httpx.WriteTimeout("slow"), Fault.TIMEOUT),
        (httpx.PoolTimeout("slow"), Fault.TIMEOUT),
        (httpx.ReadError("reset"), Fault.RESET),
        (httpx.WriteError("reset"), Fault.RESET),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Fault.RESET),
        (httpx.RemoteProtocolError("bad"), Fault.PROTOCOL),
        (httpx.DecodingError("bad"), Fault.PROTOCOL),
        (httpx.LocalProtocolError("bad"), Fault.CONFIG),
        (httpx.UnsupportedProtocol("bad"), Fault.CONFIG),
        (httpx.InvalidURL("bad"), Fault.CONFIG),
        (UnicodeEncodeError("ascii", "secret", 0, 1, "no"), Fault.CONFIG),
        (TypeError("bad"), Fault.CONFIG),
        (TimeoutError(), Fault.TIMEOUT),
        (OSError(errno.EMFILE, "too many"), Fault.CONNECT),
        (LookupError("rot13"), Fault.PROTOCOL),
        (httpx.ReadError("two\nlines \x1b[31m" + "x" * 1_000), Fault.RESET),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_exception_has_a_fault_word_and_one_line(error: Exception, fault: Fault) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    outcome = mocked(answer)
    assert outcome.fault is fault
    assert outcome.detail
    assert outcome.detail.isprintable()
    assert len(outcome.detail) < 1_300
    assert "secret" not in outcome.detail
