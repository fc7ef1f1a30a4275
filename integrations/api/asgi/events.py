"""`GET /events` on the event loop: one reader of the event stream per process, and the streams of its clients.

A client's stream is a coroutine with a queue of bytes; streams of the same topics share these bytes. A stream holds no
thread and no database connection: its caller is checked before it starts, then regularly, for all callers at once.
A client that does not read fast enough gets `bye`, and resumes with the last id it has read.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from django.core.handlers.asgi import ASGIRequest
from django.utils import timezone

from integrations.api import api, events
from integrations.api.asgi.routes import DATABASE_TIMEOUT, DatabasePool, Route, authenticate, send_response, unavailable
from integrations.api.auth import Caller, is_signed_in, viewer
from integrations.api.json_io import keep_out_of_caches
from integrations.api.parameters import refuse_unknown
from integrations.api.problems import Problem
from integrations.history import event_stream
from integrations.logs import line
from integrations.models import Token, identifiers

log = logging.getLogger("switchboard.events")

MessageState = dict[str, Any]
Frame = tuple[int, frozenset[str], bytes]  # position, topics, bytes
HEARTBEAT = b": still here\n\n"
PAGE_SIZE = 2000  # events
PAGE_KEPT = 1.0  # seconds, for other clients that resume from the same position
HEADERS = (
    (b"content-type", events.MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx would hold the events back
)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of the streams of one process. Times in seconds, sizes in bytes."""

    look_every: float = 0.5  # between two reads of the database
    beat_every: float = 12.0
    life: float = 600.0
    per_caller: int = 100
    streams: int = 2000
    unread: int = 256 * 1024  # queued for a client, not counting the network's buffers
    grace: float = 5.0  # for a client to read its `bye`
    check_every: float = 5.0  # between two checks of the callers' access


@dataclass(frozen=True, slots=True)
class Update:
    """The result of one read of the database."""

    floor: int
    frames: list[Frame]
    states: dict[int, MessageState]


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The first bytes of a stream, and the positions between which its client missed events."""

    first: bytes
    after: int
    until: int


class Stream:
    """The stream of one client: its queue of bytes and its end."""

    def __init__(self, caller: Caller, topics: events.Topics, limits: StreamLimits) -> None:
        self.caller, self.topics, self.limits = caller, topics, limits
        self.ended_by = ""
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writer = asyncio.current_task()
        self._timers = [self._loop.call_later(self._life(), self.end, "life")]

    def put(self, chunk: bytes) -> None:
        if self._size > self.limits.unread:
            self.end("slow")
            return
        self._queue.append(chunk)
        self._size += len(chunk)
        self._wake.set()

    def end(self, reason: str) -> None:
        """Let the writer send `bye` with the reason. If the client does not read it in time, cancel the writer."""
        if self.ended_by:
            return
        self.ended_by = reason
        self._queue.clear()
        self._wake.set()
        assert self._writer is not None  # noqa: S101 - a stream is created in the task that writes it
        self._timers.append(self._loop.call_later(self.limits.grace, self._writer.cancel))

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()

    async def next(self) -> bytes:
        """Return the next bytes to write; empty at the end of the stream."""
        if not self._queue and not self.ended_by:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.beat_every):
                    await self._wake.wait()
        if self.ended_by:
            return b""
        chunk = b"".join(self._queue) or HEARTBEAT
        self._queue.clear()
        self._size = 0
        return chunk

    def _life(self) -> float:
        # Random, so that clients that connected together do not all reconnect together.
        life = self.limits.life * random.uniform(0.8, 1)  # noqa: S311
        expires_at = self.caller.expires_at
        return life if expires_at is None else max(0.0, min(life, expires_at.timestamp() - time.time()))


class Broadcaster:
    """Reads events while there are streams, and hands them to the streams. Belongs to one event loop."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.pool = DatabasePool(1, "events")
        self.streams: set[Stream] = set()
        self._is_closed = False
        self._of_topics: dict[frozenset[str], set[Stream]] = {}
        self._of_message: dict[int, set[Stream]] = {}
        self._of_caller: dict[str, set[Stream]] = {}
        self._states: dict[int, MessageState] = {}  # of the messages followed by id, as sent last
        self._position = self._floor = 0
        self._reading = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._pages: dict[int, asyncio.Task[list[Frame]]] = {}
        self._checked_at = 0.0

    def close(self) -> None:
        """End all streams and refuse new ones."""
        self._is_closed = True
        for stream in [*self.streams]:
            stream.end("stopping")

    # ---- one stream ------------------------------------------------------------------------------------------------
    @contextmanager
    def open_stream(self, caller: Caller, topics: events.Topics) -> Iterator[Stream]:
        """Open a stream within the limits; ``subscribe`` starts its events. Raises Problem(429) or Problem(503)."""
        if self._is_closed:
            raise unavailable("The server is stopping; try again.")
        if len(self._of_caller.get(caller.owner, ())) >= self.limits.per_caller:
            detail = f"You have {self.limits.per_caller} streams open, which is the limit; close one first."
            raise Problem(429, detail, headers={"Retry-After": "10"})
        if len(self.streams) >= self.limits.streams:
            raise unavailable("The server has too many open streams; try again.")
        stream = Stream(caller, topics, self.limits)
        self.streams.add(stream)
        self._of_caller.setdefault(caller.owner, set()).add(stream)
        try:
            yield stream
        finally:
            stream.close()
            self.streams.discard(stream)
            _remove(self._of_caller, caller.owner, stream)
            _remove(self._of_topics, topics.names, stream)
            for pk in topics.messages:
                _remove(self._of_message, pk, stream)
                if pk not in self._of_message:
                    self._states.pop(pk, None)

    async def subscribe(self, stream: Stream, last_id: str) -> StreamStart:
        """Start the events of a stream. Raises Problem(503), or Http404 for a message that does not exist."""
        resumes = int(last_id) if last_id.isdecimal() and last_id.isascii() and len(last_id) < 19 else None
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                await self._start_reading()
                if resumes is not None and resumes > self._position:
                    await self._read()  # the client was served by a process that had already read further
                found = await self._states_of(stream.topics)
        except TimeoutError:
            raise unavailable("The database did not respond in time; try again.") from None
        # No await from here on, so that every event after this position reaches the stream.
        for pk in stream.topics.messages:
            self._states.setdefault(pk, found[pk])
            self._of_message.setdefault(pk, set()).add(stream)
        self._of_topics.setdefault(stream.topics.names, set()).add(stream)
        can_resume = resumes is not None and self._floor <= resumes <= self._position
        begins = resumes if can_resume and resumes is not None else self._position
        states = [self._states[pk] for pk in stream.topics.messages]
        hello = events.server_frame("hello", begins, topics=sorted(stream.topics.names), messages=states)
        reset = events.server_frame("reset", begins) if last_id and not can_resume else b""
        return StreamStart(b"retry: %d\n%b%b" % (events.RETRY * 1000, hello, reset), begins, self._position)

    async def missed(self, topics: frozenset[str], after: int, until: int) -> tuple[bytes, int]:
        """Return a page of the events of these topics after a position, and the position of its end."""
        page = await self._page(after)
        part = b"".join(frame for position, of, frame in page if position <= until and of & topics)
        return part, page[-1][0] if page else until

    async def _states_of(self, topics: events.Topics) -> dict[int, MessageState]:
        found = await self.pool.run(event_stream.message_states, topics.messages) if topics.messages else {}
        for pk, nonce in topics.messages.items():
            identifier = identifiers.public_id("msg", pk, nonce)
            if pk not in found or found[pk]["id"] != identifier:
                raise events.message_not_found(identifier)
        return found

    async def _page(self, after: int) -> list[Frame]:
        """Return the events after a position. Clients that resume together share one query."""
        if (task := self._pages.get(after)) is None:
            task = self._pages[after] = asyncio.create_task(self.pool.run(_frames_after, after))
            later = asyncio.get_running_loop().call_later
            task.add_done_callback(lambda _: later(PAGE_KEPT, self._pages.pop, after, None))
        return await asyncio.shield(task)

    # ---- all streams -----------------------------------------------------------------------------------------------
    async def _start_reading(self) -> None:
        async with self._reading:
            if self._work is not None and not self._work.done():
                return
            self._position, self._floor = await self.pool.run(_current_position)
            self._work = asyncio.create_task(self._read_on())

    async def _read_on(self) -> None:
        has_failed = False
        while self.streams:
            await asyncio.sleep(self.limits.look_every)
            try:
                await self._read()
                await self._check_callers()
            except Exception as error:  # any error of the database: keep the streams, which miss nothing by waiting
                if not has_failed:
                    log.warning(line("the event stream cannot be read", error=str(error).partition("\n")[0]))
                has_failed = True
            else:
                has_failed = False

    async def _read(self) -> None:
        async with self._reading:
            self._send(await self.pool.run(_update, self._position, set(self._of_message)))

    def _send(self, update: Update) -> None:
        self._floor = update.floor
        if update.frames:
            self._position = update.frames[-1][0]
        for topics, streams in self._of_topics.items():
            if chunk := b"".join(frame for _, of, frame in update.frames if of & topics):
                for stream in streams:
                    stream.put(chunk)
        for pk, state in update.states.items():
            if pk in self._states and self._states[pk] != state:
                self._states[pk] = state
                chunk = events.message_frame(state)
                for stream in self._of_message.get(pk, ()):
                    stream.put(chunk)

    async def _check_callers(self) -> None:
        if time.monotonic() - self._checked_at < self.limits.check_every:
            return
        self._checked_at = time.monotonic()
        callers = {stream.caller for stream in self.streams}
        without = await self.pool.run(_without_access, callers)
        for stream in [*self.streams]:
            if stream.caller in without:
                stream.end("access")


def _remove(groups: dict[Any, set[Stream]], key: Any, stream: Stream) -> None:
    if key in groups:
        groups[key].discard(stream)
        if not groups[key]:
            del groups[key]


# ---- in the database thread -----------------------------------------------------------------------------------------
def _current_position() -> tuple[int, int]:
    bounds = event_stream.advance()
    return bounds.position, bounds.floor


def _update(position: int, followed: Collection[int]) -> Update:
    bounds = event_stream.advance()
    frames = _frames_after(position) if bounds.position > position else []
    return Update(bounds.floor, frames, event_stream.message_states(followed) if followed else {})


def _frames_after(position: int) -> list[Frame]:
    found = event_stream.events_after(position, PAGE_SIZE)
    return [(entry.position, events.topics_of(entry), events.event_frame(entry)) for entry in found]


def _without_access(callers: Collection[Caller]) -> set[Caller]:
    """Return the callers whose token or session has ended: revoked, expired, signed out, or the account disabled."""
    now = timezone.now()
    ids = [int(caller.owner.partition(" ")[2]) for caller in callers if not caller.session]
    valid = {f"token {token.pk}" for token in Token.objects.filter(pk__in=ids) if token.is_living(now)}
    return {caller for caller in callers if not (is_signed_in(caller) if caller.session else caller.owner in valid)}


# ---- the route ------------------------------------------------------------------------------------------------------
def streaming(broadcaster: Broadcaster) -> Route:
    async def route(request: ASGIRequest, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            try:
                caller = await authenticate(request, viewer)
                refuse_unknown(request.GET, ["topics"])
                topics = events.parse_topics(request.GET.getlist("topics"))
                stream = stack.enter_context(broadcaster.open_stream(caller, topics))
                start = await broadcaster.subscribe(stream, request.headers.get("Last-Event-ID", ""))
            except Exception as error:
                response = api.on_exception(request, error)
                keep_out_of_caches(response)
                await send_response(request, response, send)
                return
            watch = asyncio.create_task(_end_when_gone(stream, receive))
            try:
                await _write(stream, start, broadcaster, send)
            except asyncio.CancelledError:
                if not stream.ended_by:
                    raise  # the server cancels; otherwise Stream.end() does, because the client reads nothing
            finally:
                watch.cancel()
                if stream.ended_by == "slow":
                    log.warning(line("event stream ended: its client does not read", caller=caller.actor))

    return route


async def _write(stream: Stream, start: StreamStart, broadcaster: Broadcaster, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": False})
    await _send(send, start.first)
    after = start.after
    try:
        while after < start.until and not stream.ended_by:
            part, after = await broadcaster.missed(stream.topics.names, after, start.until)
            if part:
                await _send(send, part)
    except Problem:
        stream.end("unavailable")
    while chunk := await stream.next():
        await _send(send, chunk)
    if stream.ended_by != "gone":
        await _send(send, events.server_frame("bye", reason=stream.ended_by), has_more=False)


async def _send(send: Send, chunk: bytes, has_more: bool = True) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": has_more})


async def _end_when_gone(stream: Stream, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end("gone")


broadcaster = Broadcaster()
route = streaming(broadcaster)
