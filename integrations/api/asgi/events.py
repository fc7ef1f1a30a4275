"""`GET /events` on the event loop: one reader of the feed in each process, and what it reads for all its streams.

A stream is a coroutine with a queue of bytes that it shares with all others of the same topics. It holds no thread
and no connection: who calls is asked before it starts, and then again for all at once. A client that does not read
what was written for it is ended with `bye`, and comes back with the last id that it has read.
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
from integrations.api.asgi.routes import DATABASE_TIMEOUT, Pool, Route, authenticate, send_response, unavailable
from integrations.api.auth import Caller, is_signed_in, viewer
from integrations.api.json_io import keep_out_of_caches
from integrations.api.problems import Problem
from integrations.history import event_stream
from integrations.logs import line
from integrations.models import Token, identifiers

log = logging.getLogger("switchboard.events")

State = dict[str, Any]
Told = tuple[int, frozenset[str], bytes]  # position, topics, frame
BEAT = b": still here\n\n"
AT_ONCE = 2000  # events
PAGE_KEPT = 1.0  # seconds, for the others who come back to the same position
HEADERS = (
    (b"content-type", events.MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events to itself
)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Times in seconds, sizes in bytes."""

    look_every: float = 0.5
    beat_every: float = 12.0
    life: float = 600.0
    per_caller: int = 100
    streams: int = 2000
    unread: int = 256 * 1024  # queued for a client, beside what the network holds
    grace: float = 5.0  # for a client to take its `bye`
    check_every: float = 5.0  # whether the callers may still read


@dataclass(frozen=True, slots=True)
class News:
    """What one look at the database has found."""

    floor: int
    told: list[Told]
    states: dict[int, State]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a stream's client is written first, and between which positions is what it has missed."""

    first: bytes
    after: int
    until: int


class Stream:
    """One client: what is to be written for it, and until when."""

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
        """Lets it say why and leave; if the client takes not even that, the connection is cut."""
        if self.ended_by:
            return
        self.ended_by = reason
        self._queue.clear()
        self._wake.set()
        assert self._writer is not None  # noqa: S101 - a stream is made in the task that writes it
        self._timers.append(self._loop.call_later(self.limits.grace, self._writer.cancel))

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()

    async def next(self) -> bytes:
        """What to write next; empty where the stream has ended."""
        if not self._queue and not self.ended_by:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.beat_every):
                    await self._wake.wait()
        if self.ended_by:
            return b""
        chunk = b"".join(self._queue) or BEAT
        self._queue.clear()
        self._size = 0
        return chunk

    def _life(self) -> float:
        # Those that came together should not come back together.
        life = self.limits.life * random.uniform(0.8, 1)  # noqa: S311
        expires_at = self.caller.expires_at
        return life if expires_at is None else max(0.0, min(life, expires_at.timestamp() - time.time()))


class Broadcaster:
    """Reads the feed while somebody follows, and hands out what it says. Lives on one event loop."""

    def __init__(self, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self.pool = Pool(1, "events")
        self.streams: set[Stream] = set()
        self._is_closed = False
        self._of_topics: dict[frozenset[str], set[Stream]] = {}
        self._of_message: dict[int, set[Stream]] = {}
        self._of_caller: dict[str, set[Stream]] = {}
        self._states: dict[int, State] = {}  # of the messages that are followed, as they were told last
        self._position = self._floor = 0
        self._looking = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._pages: dict[int, asyncio.Task[list[Told]]] = {}
        self._checked_at = 0.0

    def close(self) -> None:
        """Ends all streams, and takes no more."""
        self._is_closed = True
        for stream in [*self.streams]:
            stream.end("stopping")

    # ---- one stream ------------------------------------------------------------------------------------------------
    @contextmanager
    def place(self, caller: Caller, topics: events.Topics) -> Iterator[Stream]:
        """A stream that is counted, and is fed once it has tuned in. Raises Problem(429) or Problem(503)."""
        if self._is_closed:
            raise unavailable("The server is stopping; try again.")
        if len(self._of_caller.get(caller.owner, ())) >= self.limits.per_caller:
            words = f"You have {self.limits.per_caller} streams open, and there may not be more."
            raise Problem(429, words, headers={"Retry-After": "10"})
        if len(self.streams) >= self.limits.streams:
            raise unavailable("Too many streams are open; try again.")
        stream = Stream(caller, topics, self.limits)
        self.streams.add(stream)
        self._of_caller.setdefault(caller.owner, set()).add(stream)
        try:
            yield stream
        finally:
            stream.close()
            self.streams.discard(stream)
            _take_out(self._of_caller, caller.owner, stream)
            _take_out(self._of_topics, topics.names, stream)
            for pk in topics.messages:
                _take_out(self._of_message, pk, stream)
                if pk not in self._of_message:
                    self._states.pop(pk, None)

    async def tune_in(self, stream: Stream, last_id: str) -> Beginning:
        """Feeds the stream from now on. Raises Problem(503), or Http404 for a message that is not there."""
        resumes = int(last_id) if last_id.isdecimal() and last_id.isascii() and len(last_id) < 19 else None
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                await self._look_from_now_on()
                if resumes is not None and resumes > self._position:
                    await self._look()  # another process was ahead by a moment
                found = await self._stand_of(stream.topics)
        except TimeoutError:
            raise unavailable("The database did not answer in time; try again.") from None
        # From here on nothing waits: what is told after this position goes to the stream.
        for pk in stream.topics.messages:
            self._states.setdefault(pk, found[pk])
            self._of_message.setdefault(pk, set()).add(stream)
        self._of_topics.setdefault(stream.topics.names, set()).add(stream)
        can_resume = resumes is not None and self._floor <= resumes <= self._position
        begins = resumes if can_resume and resumes is not None else self._position
        states = [self._states[pk] for pk in stream.topics.messages]
        hello = events.server_frame("hello", begins, topics=sorted(stream.topics.names), messages=states)
        reset = events.server_frame("reset", begins) if last_id and not can_resume else b""
        return Beginning(b"retry: %d\n%b%b" % (events.RETRY * 1000, hello, reset), begins, self._position)

    async def missed(self, topics: frozenset[str], after: int, until: int) -> tuple[bytes, int]:
        """What was told of these topics after a position, or the first part of it; and how far that goes."""
        page = await self._page(after)
        part = b"".join(frame for position, of, frame in page if position <= until and of & topics)
        return part, page[-1][0] if page else until

    async def _stand_of(self, topics: events.Topics) -> dict[int, State]:
        found = await self.pool.run(event_stream.message_states, topics.messages) if topics.messages else {}
        for pk, nonce in topics.messages.items():
            identifier = identifiers.public_id("msg", pk, nonce)
            if pk not in found or found[pk]["id"] != identifier:
                raise events.message_not_found(identifier)
        return found

    async def _page(self, after: int) -> list[Told]:
        """What follows a position; those who come back together read it once."""
        if (task := self._pages.get(after)) is None:
            task = self._pages[after] = asyncio.create_task(self.pool.run(_told_after, after))
            later = asyncio.get_running_loop().call_later
            task.add_done_callback(lambda _: later(PAGE_KEPT, self._pages.pop, after, None))
        return await asyncio.shield(task)

    # ---- all of them -----------------------------------------------------------------------------------------------
    async def _look_from_now_on(self) -> None:
        async with self._looking:
            if self._work is not None and not self._work.done():
                return
            self._position, self._floor = await self.pool.run(_stand)
            self._work = asyncio.create_task(self._look_on())

    async def _look_on(self) -> None:
        is_away = False
        while self.streams:
            await asyncio.sleep(self.limits.look_every)
            try:
                await self._look()
                await self._check_callers()
            except Exception as error:  # whatever the database says: the streams live on, and miss nothing
                if not is_away:
                    log.warning(line("the event feed cannot be read", error=str(error).partition("\n")[0]))
                is_away = True
            else:
                is_away = False

    async def _look(self) -> None:
        async with self._looking:
            news = await self.pool.run(_look_up, self._position, set(self._of_message))
            self._tell(news)

    def _tell(self, news: News) -> None:
        self._floor = news.floor
        if news.told:
            self._position = news.told[-1][0]
        for topics, streams in self._of_topics.items():
            if chunk := b"".join(frame for _, of, frame in news.told if of & topics):
                for stream in streams:
                    stream.put(chunk)
        for pk, state in news.states.items():
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


def _take_out(groups: dict[Any, set[Stream]], key: Any, stream: Stream) -> None:
    if key in groups:
        groups[key].discard(stream)
        if not groups[key]:
            del groups[key]


# ---- in the thread with the connection ------------------------------------------------------------------------------
def _stand() -> tuple[int, int]:
    stand = event_stream.advance()
    return stand.position, stand.floor


def _look_up(position: int, followed: Collection[int]) -> News:
    stand = event_stream.advance()
    told = _told_after(position) if stand.position > position else []
    return News(stand.floor, told, event_stream.message_states(followed) if followed else {})


def _told_after(position: int) -> list[Told]:
    found = event_stream.events_after(position, AT_ONCE)
    return [(entry.position, events.topics_of(entry), events.event_frame(entry)) for entry in found]


def _without_access(callers: Collection[Caller]) -> set[Caller]:
    """Of these, those whose token has ended, or whose page's session has: by signing out, by age, with the account."""
    now = timezone.now()
    numbers = [int(who.owner.partition(" ")[2]) for who in callers if not who.session]
    living = {f"token {token.pk}" for token in Token.objects.filter(pk__in=numbers) if token.is_living(now)}
    return {who for who in callers if not (is_signed_in(who) if who.session else who.owner in living)}


# ---- the call -------------------------------------------------------------------------------------------------------
def streaming(broadcaster: Broadcaster) -> Route:
    async def route(request: ASGIRequest, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            try:
                caller = await authenticate(request, viewer)
                topics = events.parse_topics(request.GET.getlist("topics"))
                stream = stack.enter_context(broadcaster.place(caller, topics))
                beginning = await broadcaster.tune_in(stream, request.headers.get("Last-Event-ID", ""))
            except Exception as error:
                response = api.on_exception(request, error)
                keep_out_of_caches(response)
                await send_response(request, response, send)
                return
            watch = asyncio.create_task(_end_when_gone(stream, receive))
            try:
                await _write(stream, beginning, broadcaster, send)
            except asyncio.CancelledError:
                if not stream.ended_by:
                    raise  # by the server; else by the stream, whose client takes nothing
            finally:
                watch.cancel()
                if stream.ended_by == "slow":
                    log.warning(line("event stream ended: its client does not read", caller=caller.actor))

    return route


async def _write(stream: Stream, beginning: Beginning, broadcaster: Broadcaster, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": False})
    await _send(send, beginning.first)
    after = beginning.after
    try:
        while after < beginning.until and not stream.ended_by:
            part, after = await broadcaster.missed(stream.topics.names, after, beginning.until)
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
