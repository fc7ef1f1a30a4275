"""`GET /events` over real HTTP: the events and their readers, exact resumption, and the end of a stream."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from django.contrib.sessions.models import Session
from django.db import connection, connections, transaction
from django.test import Client
from django.utils import timezone

from dashboard import asgi
from integrations import models
from integrations.api.asgi import routes
from integrations.api.asgi.events import Broadcaster, StreamLimits, streaming
from integrations.api.json_io import api_path
from integrations.history import event_stream
from integrations.models import Account, Event, Feed, Message, Role, Service, Token
from integrations.models.tally import Counts, add
from integrations.workers import housekeeping
from tests.support.calling import Api
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

QUICK = StreamLimits(look_every=0.02, beat_every=0.1, check_every=0.05, grace=2.0)
PATIENCE = 30.0  # seconds until a test gives up
Told = dict[str, Any]


class Served:
    """The ASGI application on a port of its own, with a broadcaster of these limits."""

    def __init__(self, limits: StreamLimits) -> None:
        self.broadcaster = Broadcaster(limits)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        config = uvicorn.Config(asgi.application, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def close(self) -> None:
        for stream in [*self.broadcaster.streams][:1]:
            asyncio.run_coroutine_threadsafe(_call(self.broadcaster.close), stream._loop).result(PATIENCE)
        self.server.should_exit = True
        self.thread.join()
        for pool in (self.broadcaster.pool, routes._look_ups):
            _close_connections(pool._threads)

    @contextmanager
    def stream(self, topics: str = "", *, last_id: int | None = None, **headers: Any) -> Iterator[Stream]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {} if last_id is None else {"Last-Event-ID": str(last_id)}
        with (
            httpx.Client(timeout=PATIENCE) as client,
            client.stream("GET", self.url(topics), headers=sent) as answer,
        ):
            yield Stream(answer)

    def url(self, topics: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{api_path('events')}" + (f"?topics={topics}" if topics else "")


class Stream:
    """One client that reads."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.answer = answer
        self.beats = 0
        self.retry: int | None = None
        self._blocks = self._read() if self.status == 200 else iter(())
        self.last_id = ""

    def next(self) -> Told:
        """The next event; fails where none comes."""
        return next(self._blocks)

    def until(self, type_: str) -> list[Told]:
        """All events up to the first of this type."""
        told = [self.next()]
        while told[-1]["type"] != type_:
            told.append(self.next())
        return told

    def _read(self) -> Iterator[Told]:
        fields: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE
        for text in self.answer.iter_lines():
            assert time.monotonic() < deadline, "nothing but heartbeats"
            if text.startswith(":"):
                self.beats += 1
            elif text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self.retry = int(fields.pop("retry", "0")) or self.retry
                self.last_id = fields.get("id", self.last_id)
                data = json.loads(fields["data"])
                assert data["type"] == fields["event"]
                yield data | ({"position": int(fields["id"])} if "id" in fields else {})
                fields = {}
                deadline = time.monotonic() + PATIENCE


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []
    monkeypatch.setattr(routes, "recent_callers", routes.RecentCallers())
    monkeypatch.setattr(event_stream, "COUNT_EVERY", timedelta(seconds=0.1))

    def start(limits: StreamLimits = QUICK) -> Served:
        served = Served(limits)
        monkeypatch.setitem(asgi.ROUTES, ("GET", api_path("events")), streaming(served.broadcaster))
        running.append(served)
        return served

    yield start
    for served in running:
        served.close()


@pytest.fixture
def signed_in(transactional_db: None) -> Callable[[], Client]:
    """Signs the same person in once more."""
    person = Account.objects.register("ada", "a long password", Role.VIEWER)

    def sign_in() -> Client:
        browser = Client()
        browser.force_login(person, "django.contrib.auth.backends.ModelBackend")
        return browser

    return sign_in


def cookie_of(browser: Client) -> str:
    return "; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items())


def bearer(caller: Api) -> dict[str, Any]:
    return {"Authorization": f"Bearer {caller.secret}"}


def happen(type_: str, service: Service | None = None, **facts: Any) -> None:
    Event.objects.create(type=type_, service=service, facts=facts)


# ---- events ---------------------------------------------------------------------------------------------------------
def test_it_says_hello_and_tells_what_happens(serve: Callable[..., Served], viewer: Api, billing: Service) -> None:
    with serve().stream(**bearer(viewer)) as stream:
        assert stream.answer.headers["Content-Type"] == "text/event-stream"
        assert stream.answer.headers["Cache-Control"] == "no-store"
        hello = stream.next()
        assert hello["type"] == "hello"
        assert "services" in hello["topics"]
        assert stream.retry == 2000
        happen("breaker.opened", billing, cause="5 in a row\nfailed")
        told = stream.next()
        assert told == {
            "type": "breaker.opened",
            "at": told["at"],
            "service": "billing",
            "cause": "5 in a row\nfailed",
            "position": hello["position"] + 1,
        }


def test_topics_choose(serve: Callable[..., Served], viewer: Api, billing: Service) -> None:
    with serve().stream("breakers,operation:op_7&topics=workers", **bearer(viewer)) as stream:
        stream.next()
        happen("service.changed", billing)
        happen("breaker.opened", billing)
        Event.objects.create(type="operation.progressed", subject="op_8")
        Event.objects.create(type="operation.progressed", subject="op_7")
        happen("failure.opened", billing)
        happen("worker.started")
        told = stream.until("worker.started")
        assert [event["type"] for event in told] == ["breaker.opened", "operation.progressed", "worker.started"]
        assert told[1]["id"] == "op_7"


@pytest.mark.parametrize("topics", ["everything", "services,x:1", "message", "operation:", "operation:a%0Ab"])
def test_a_topic_that_is_none_is_refused(serve: Callable[..., Served], viewer: Api, topics: str) -> None:
    assert httpx.get(serve().url(topics), headers=bearer(viewer)).status_code == 422


def test_changes_of_messages_are_counted_by_service_and_second(
    serve: Callable[..., Served],
    viewer: Api,
    billing: Service,
    queue: Callable[..., Message],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue()  # before any client follows
    with serve().stream("messages", **bearer(viewer)) as stream:
        stream.next()
        monkeypatch.setattr(
            event_stream, "COUNT_EVERY", event_stream.RETENTION
        )  # so that all that happens falls into one count
        first, _, _ = queue(), queue(), queue()
        first.cancel()
        add({billing.pk: Counts(calls=3, failures=1, delivered=2)}, timezone.now())
        monkeypatch.setattr(event_stream, "COUNT_EVERY", timedelta(0))
        total: dict[str, int] = {}
        told = []
        while total != {"pending": 3, "cancelled": 1, "delivered": 2, "calls": 3}:
            told.append(stream.next())
            for name, number in {**told[-1]["counts"], "calls": told[-1]["calls"]}.items():
                total[name] = total.get(name, 0) + number
        assert all(event["type"] == "messages.changed" and event["service"] == "billing" for event in told)
        assert len(told) <= 2, "changes between two counts are reported together"
    add({billing.pk: Counts(calls=1, delivered=1)}, timezone.now())  # no client follows now
    with serve().stream("messages", last_id=told[-1]["position"], **bearer(viewer)) as again:
        again.next()
        late = again.next()
        assert (late["counts"], late["calls"], late["position"]) == ({"delivered": 1}, 1, told[-1]["position"] + 1)


def test_a_single_message_is_followed(serve: Callable[..., Served], viewer: Api, queue: Callable[..., Message]) -> None:
    followed, other = queue(), queue()
    with serve().stream(f"message:{followed.public_id}", **bearer(viewer)) as stream:
        (state,) = stream.next()["messages"]
        assert (state["id"], state["status"]) == (followed.public_id, "pending")
        other.cancel()
        Message.objects.filter(pk=followed.pk).update(attempts=1)
        told = stream.next()
        assert (told["id"], told["status"], told["attempts"]) == (followed.public_id, "pending", 1)
        assert "position" not in told
        followed.cancel()
        assert stream.next()["status"] == "cancelled"
    for unknown in (f"msg_{followed.pk}_00000000", "msg_1", "x"):
        assert httpx.get(serve().url(f"message:{unknown}"), headers=bearer(viewer)).status_code == 404


# ---- resuming -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_who_comes_back_misses_nothing_and_hears_nothing_twice(
    serve: Callable[..., Served], viewer: Api, billing: Service
) -> None:
    """Four writers with transactions of different lengths, and a client that leaves after every few events."""
    served, each, writers = serve(), 40, 4

    def write(writer: int) -> None:
        for number in range(each):
            with transaction.atomic():
                happen("service.changed", billing, writer=writer, number=number)
                if connection.vendor == "postgresql" and number % 3 == writer % 3:
                    time.sleep(0.02)  # its id is taken, and others commit before it
        connection.close()

    with served.stream(**bearer(viewer)) as stream:
        position = stream.next()["position"]
    heard: list[Told] = []
    with ThreadPoolExecutor(writers) as threads:
        running = [threads.submit(write, writer) for writer in range(writers)]
        while len(heard) < each * writers:
            with served.stream("services", last_id=position, **bearer(viewer)) as stream:
                assert stream.next()["position"] == position
                for _ in range(min(7, each * writers - len(heard))):
                    heard.append(stream.next())
                    position = heard[-1]["position"]
        for one in running:
            one.result()
    written = [(writer, number) for writer in range(writers) for number in range(each)]
    assert sorted((event["writer"], event["number"]) for event in heard) == written
    assert [event["position"] for event in heard] == list(range(position - each * writers + 1, position + 1))


@pytest.mark.servers_only
def test_what_commits_late_is_told_after_what_came_before(
    serve: Callable[..., Served], viewer: Api, billing: Service
) -> None:
    served = serve()
    has_inserted, may_commit = threading.Event(), threading.Event()

    def commit_late() -> None:
        with transaction.atomic():
            happen("service.changed", billing, name="late")
            has_inserted.set()
            may_commit.wait(PATIENCE)
        connection.close()

    with ThreadPoolExecutor(1) as threads:
        with served.stream("services", **bearer(viewer)) as stream:
            stream.next()
            late = threads.submit(commit_late)
            has_inserted.wait(PATIENCE)
            happen("service.changed", billing, name="early")
            early = stream.next()
            assert early["name"] == "early", "no event waits for an open transaction"
        may_commit.set()
        late.result()
    with served.stream("services", last_id=early["position"], **bearer(viewer)) as again:
        again.next()
        told = again.next()
        assert (told["name"], told["position"]) == ("late", early["position"] + 1)
    late_row, early_row = Event.objects.get(facts__name="late"), Event.objects.get(facts__name="early")
    assert late_row.pk < early_row.pk, "or this has shown nothing"


def test_a_message_that_commits_late_is_counted(
    serve: Callable[..., Served], viewer: Api, queue: Callable[..., Message]
) -> None:
    with serve().stream("messages", **bearer(viewer)) as stream:
        stream.next()
        message = queue()
        assert stream.next()["counts"] == {"pending": 1}
        content = message.content
        late = message.pk + 1
        message.pk = message.pk + 2  # as if another had taken the id between, and not committed
        message.nonce += 1
        message.save(force_insert=True)
        assert stream.next()["counts"] == {"pending": 1}
        message.pk = late
        message.save(force_insert=True)
        assert stream.next()["counts"] == {"pending": 1}
        assert content


def test_another_process_resumes(serve: Callable[..., Served], viewer: Api, billing: Service) -> None:
    with serve().stream("services", **bearer(viewer)) as stream:
        stream.next()
        happen("service.changed", billing, number=1)
        position = stream.next()["position"]
    happen("service.changed", billing, number=2)
    with serve().stream("services", last_id=position, **bearer(viewer)) as stream:
        assert stream.next()["position"] == position
        assert stream.next()["number"] == 2


@pytest.mark.parametrize("last_id", ["0", "999999", "-1", "x"])
def test_what_cannot_be_resumed_is_reset_once(
    serve: Callable[..., Served], viewer: Api, billing: Service, last_id: str
) -> None:
    with serve().stream("services", Last_Event_ID=last_id, **bearer(viewer)) as stream:
        hello, reset = stream.next(), stream.next()
        assert (hello["type"], reset["type"]) == ("hello", "reset")
        assert hello["position"] == reset["position"]
        happen("service.changed", billing)
        assert stream.next()["type"] == "service.changed"


def test_after_an_hour_there_is_nothing_to_resume(serve: Callable[..., Served], viewer: Api, billing: Service) -> None:
    with serve().stream("services", **bearer(viewer)) as stream:
        position = stream.next()["position"]
    happen("service.changed", billing)
    Event.objects.update(at=timezone.now() - timedelta(hours=2))
    Feed.objects.update(counted_at=timezone.now() - event_stream.RETENTION - timedelta(seconds=1))
    with serve().stream("services", last_id=position, **bearer(viewer)) as stream:
        assert [stream.next()["type"], stream.next()["type"]] == ["hello", "reset"]
        happen("service.paused", billing)
        assert stream.next()["type"] == "service.paused"


def test_counts_are_forgotten_after_an_hour(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PRUNED_AT_ONCE", 2)  # so that it takes several steps
    event_stream.advance()
    old = timezone.now() - timedelta(hours=2)
    for _ in range(5):
        Event.objects.create(type=models.MESSAGES_CHANGED, service=billing, at=old, facts={"counts": {}, "calls": 1})
    Event.objects.create(type="service.changed", service=billing, at=old)
    Event.objects.create(type=models.MESSAGES_CHANGED, service=billing, facts={"counts": {}, "calls": 1})
    position = event_stream.advance().position
    housekeeping.tidy()
    kept = [entry.type for entry in event_stream.events_after(0)]
    assert kept == ["service.created", "service.changed", models.MESSAGES_CHANGED], "what else has happened is history"
    assert event_stream.advance().floor == position - 2, "a client can still resume after the last deleted event"


def test_what_waits_to_be_counted_does_not_pile_up_while_nobody_follows(
    queue: Callable[..., Message], billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PRUNED_AT_ONCE", 2)
    for _ in range(5):
        queue().cancel()
    Event.objects.filter(type=models.MESSAGES_ENDED).update(
        at=timezone.now() - event_stream.RETENTION - timedelta(seconds=1)
    )
    queue().cancel()
    housekeeping.tidy()
    assert Event.objects.filter(type=models.MESSAGES_ENDED).count() == 1


def test_while_nothing_happens_it_is_one_glance(
    queue: Callable[..., Message], django_assert_max_num_queries: Callable[..., AbstractContextManager[Any]]
) -> None:
    queue()  # ids from here on follow each other
    event_stream.advance()
    queue()
    add({queue().service_id: Counts(calls=2)}, timezone.now())
    Feed.objects.update(counted_at=timezone.now() - event_stream.COUNT_EVERY)
    position = event_stream.advance().position
    Feed.objects.update(counted_at=timezone.now() - event_stream.COUNT_EVERY)
    with django_assert_max_num_queries(3):
        assert event_stream.advance().position == position


# ---- access ---------------------------------------------------------------------------------------------------------
def test_without_a_token_there_is_no_stream(serve: Callable[..., Served], viewer: Api) -> None:
    served = serve()
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.get(served.url(), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert not served.broadcaster.streams


def test_a_page_of_our_origin_may_read_with_its_session(
    serve: Callable[..., Served], signed_in: Callable[[], Client]
) -> None:
    served = serve()
    browser = signed_in()
    with served.stream(Cookie=cookie_of(browser), Sec_Fetch_Site="same-origin") as stream:
        assert stream.next()["type"] == "hello"
        with served.stream(Cookie=cookie_of(browser), Sec_Fetch_Site="cross-site") as other:
            assert other.status == 401


def sign_out(browser: Client) -> None:
    assert browser.post("/logout/").status_code == 302


def change_the_password(browser: Client) -> None:
    person = Account.objects.get()
    person.set_password("another long password")
    person.save()


def close_the_account(browser: Client) -> None:
    Account.objects.update(is_active=False)


def let_it_age(browser: Client) -> None:
    Session.objects.update(expire_date=timezone.now())


@pytest.mark.parametrize("end", [sign_out, change_the_password, close_the_account, let_it_age])
def test_a_session_that_ends_ends_its_streams(
    serve: Callable[..., Served], signed_in: Callable[[], Client], viewer: Api, end: Callable[[Client], None]
) -> None:
    served = serve()
    browser, elsewhere = signed_in(), signed_in()
    with (
        served.stream(Cookie=cookie_of(browser)) as stream,
        served.stream(Cookie=cookie_of(elsewhere)) as of_the_same_person,
        served.stream(**bearer(viewer)) as other,
    ):
        stream.next(), of_the_same_person.next(), other.next()
        end(browser)
        assert stream.next()["reason"] == "access"
        if end is sign_out:
            happen("worker.started")
            assert of_the_same_person.next()["type"] == "worker.started"
        else:
            assert of_the_same_person.next()["reason"] == "access"
        happen("worker.lost")
        assert other.until("worker.lost")


def test_a_revoked_token_ends_its_streams(serve: Callable[..., Served], viewer: Api, operator: Api) -> None:
    served = serve()
    with served.stream(**bearer(viewer)) as stream, served.stream(**bearer(operator)) as other:
        stream.next(), other.next()
        Token.objects.filter(pk=viewer.token.pk).delete()
        assert stream.next()["reason"] == "access"
        happen("worker.started")
        assert other.next()["type"] == "worker.started"


def test_a_token_has_so_many_streams(serve: Callable[..., Served], viewer: Api, operator: Api) -> None:
    served = serve(StreamLimits(look_every=0.02, per_caller=2))
    with served.stream(**bearer(viewer)) as first, served.stream(**bearer(viewer)) as second:
        first.next(), second.next()
        refused = httpx.get(served.url(), headers=bearer(viewer))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        with served.stream(**bearer(operator)) as other:
            assert other.status == 200
    until(lambda: not served.broadcaster.streams, PATIENCE)
    with served.stream(**bearer(viewer)) as again:
        assert again.status == 200


# ---- how it ends ----------------------------------------------------------------------------------------------------
def test_an_idle_stream_beats(serve: Callable[..., Served], viewer: Api) -> None:
    with serve(StreamLimits(look_every=0.02, beat_every=0.02)).stream(**bearer(viewer)) as stream:
        lines = stream.answer.iter_lines()
        assert "event: hello" in lines
        beats = (text for text in lines if text.startswith(":"))
        assert [next(beats) for _ in range(5)] == [": still here"] * 5


def test_a_life_is_bounded_and_the_next_one_misses_nothing(
    serve: Callable[..., Served], viewer: Api, billing: Service
) -> None:
    with serve(StreamLimits(look_every=0.02, life=0.3)).stream("services", **bearer(viewer)) as stream:
        stream.next()
        happen("service.changed", billing, number=1)  # told before the end, or after
        *told, bye = stream.until("bye")
        assert bye["reason"] == "life"
        with pytest.raises(StopIteration):
            stream.next()
    happen("service.changed", billing, number=2)
    with serve().stream("services", last_id=int(stream.last_id), **bearer(viewer)) as again:
        again.next()
        while len(told) < 2:
            told.append(again.next())
    assert [event["number"] for event in told] == [1, 2]


def test_a_server_that_stops_says_bye_at_once(serve: Callable[..., Served], viewer: Api) -> None:
    served = serve()
    with served.stream(**bearer(viewer)) as stream:
        stream.next()
        asyncio.run_coroutine_threadsafe(_call(served.broadcaster.close), _loop_of(served)).result(PATIENCE)
        assert stream.next()["reason"] == "stopping"
    assert httpx.get(served.url(), headers=bearer(viewer)).status_code == 503


@pytest.mark.slow
@pytest.mark.parametrize("reads_later", [True, False])
def test_who_does_not_read_is_dropped(
    serve: Callable[..., Served], viewer: Api, billing: Service, reads_later: bool
) -> None:
    served = serve(StreamLimits(look_every=0.02, unread=50_000, grace=PATIENCE if reads_later else 0.1))
    broadcaster = served.broadcaster
    with closing(_connected(served.port, viewer)) as client, served.stream(**bearer(viewer)) as quick:
        quick.next()
        (slow,) = [stream for stream in broadcaster.streams if not stream.topics.names - {"services"}]
        sent = 0
        while not slow.ended_by and sent < 400:
            happen("service.changed", billing, filler="x" * 50_000)
            sent += 1
            quick.until("service.changed")
        assert slow.ended_by == "slow"
        if reads_later:
            read = b"".join(iter(lambda: client.recv(1 << 20), b""))
            last = json.loads(read.rpartition(b"data: ")[2].partition(b"\n")[0])
            assert (last["type"], last["reason"]) == ("bye", "slow")
        until(lambda: slow not in broadcaster.streams, PATIENCE)


def test_streams_share_one_reader_and_hold_no_thread(
    serve: Callable[..., Served], viewer: Api, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    asked = []
    monkeypatch.setattr(
        event_stream, "events_after", lambda *given, real=event_stream.events_after: asked.append(given) or real(*given)
    )
    with served.stream("services", **bearer(viewer)) as first:
        first.next()
        threads = threading.active_count()
        with served.stream("services", **bearer(operator)) as second:
            second.next()
            assert threading.active_count() <= threads + routes.LOOK_UPS
            happen("service.changed", billing)
            assert first.next()["position"] == second.next()["position"]
            assert len(asked) == 1
    until(lambda: not served.broadcaster.streams, PATIENCE)
    until(lambda: served.broadcaster._work is not None and served.broadcaster._work.done(), PATIENCE)


# ---- helpers --------------------------------------------------------------------------------------------------------
async def _call(function: Callable[[], None]) -> None:
    function()


def _loop_of(served: Served) -> asyncio.AbstractEventLoop:
    (stream, *_) = served.broadcaster.streams
    return stream._loop


def _connected(port: int, caller: Api) -> socket.socket:
    """A client that has asked for the services and reads nothing but the start of the answer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", port))
    asked = f"GET {api_path('events')}?topics=services HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    client.sendall(f"{asked}Authorization: Bearer {caller.secret}\r\nConnection: close\r\n\r\n".encode())
    assert client.recv(12) == b"HTTP/1.1 200"
    return client


def _close_connections(threads: ThreadPoolExecutor) -> None:
    """In each of its threads."""
    every = threading.Barrier(threads._max_workers)

    def close() -> None:
        with suppress(threading.BrokenBarrierError):
            every.wait(1)
        connections.close_all()

    for done in [threads.submit(close) for _ in range(threads._max_workers)]:
        done.result()
