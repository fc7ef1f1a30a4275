"""No message reaches the console, its database or its Redis, although their network is allowed: real processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.faults.traffic import rows
from tests.support.backends import Servers
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.slow

ANNOUNCED = "SELECT port FROM integrations_webserver ORDER BY port"


def end_of_message(api: httpx.Client, service: str, method: str = "GET", path: str = "/metrics") -> dict[str, Any]:
    """Queue a message, and return it when it has ended."""
    sent = api.post("messages", json={"service": service, "method": method, "path": path}).raise_for_status().json()
    until(lambda: api.get(f"messages/{sent['id']}").json()["finished_at"], 30, "the message has not ended")
    message: dict[str, Any] = api.get(f"messages/{sent['id']}").json()
    return message


def is_blocked(message: dict[str, Any], owner: str) -> bool:
    last = message["last"]
    return (message["status"], message["dead_reason"], last["fault"]) == ("dead", "blocked", "blocked") and (
        f"own {owner}" in last["detail"]
    )


def register(api: httpx.Client, name: str, base_url: str) -> httpx.Response:
    return api.post("services", json={"name": name, "base_url": base_url, "retry": {"max_attempts": 1}})


@pytest.mark.parametrize("workers_are_first", [False, True])
def test_a_console_is_no_target_of_workers_that_were_started_apart(
    start_installation: Callable[..., Installation], sink: Receiver, workers_are_first: bool
) -> None:
    """A message to /metrics came back with 200 and the metrics, which loopback reads without a token."""
    web = start_installation("--no-workers")
    console, workers = web.another("--no-workers"), web.another("--no-web", "--workers", "1")
    try:
        with web.api() as api:
            assert register(api, "console", console.url).status_code == 201, "nothing listens there yet"
            assert register(api, "beside", sink.url).status_code == 201
            if workers_are_first:
                workers.start()
                assert end_of_message(api, "beside")["status"] == "delivered"
                console.start()
                until(lambda: is_blocked(end_of_message(api, "console"), "console"), 20, "it became no target")
            else:
                console.start()
                workers.start()
            message = end_of_message(api, "console")
            assert is_blocked(message, "console"), message
            assert end_of_message(api, "beside")["status"] == "delivered", "other ports of loopback stay targets"
            refused = register(api, "mirror", web.url)
            assert (refused.status_code, "own console" in refused.text) == (422, True)
        assert [port for (port,) in rows(web, ANNOUNCED)] == sorted((web.port, console.port))
        console.stop()
        assert rows(web, ANNOUNCED) == [(web.port,)], "a console that was stopped gives its port back"
    finally:
        console.close()
        workers.close()


@contextmanager
def on_a_port(path: str) -> Iterator[int]:
    """Make the server behind a Unix socket reachable on a port of 127.0.0.1, and yield the port."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65_536):
            writer.write(received)
            await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server, from_server = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, from_server), pump(to_server, writer), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(join, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop)
    assert ready.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.mark.servers_only
def test_postgresql_and_redis_are_no_targets(
    start_installation: Callable[..., Installation], servers: Servers, sink: Receiver
) -> None:
    """With an allowed loopback, a message with the method SET wrote a key into the console's Redis."""
    postgres, redis = urlsplit(servers.new_postgres_database(migrated=True)), urlsplit(servers.new_redis_database())
    socket = Path(unquote(postgres.netloc.rpartition("@")[2])) / ".s.PGSQL.5432"
    with on_a_port(str(socket)) as postgres_port, on_a_port(redis.path) as redis_port:
        one = start_installation(
            SWITCHBOARD_DATABASE_URL=f"postgres://postgres@localhost:{postgres_port}{postgres.path}",
            SWITCHBOARD_REDIS_URL=f"redis://127.0.0.1:{redis_port}/{redis.query.removeprefix('db=')}",
        )
        try:
            with one.api() as api:
                for name, port in (("database", postgres_port), ("Redis", redis_port)):
                    assert register(api, name.lower(), sink.url).status_code == 201
                    refused = register(api, f"{name.lower()}-2", f"http://127.0.0.1:{port}")
                    assert (refused.status_code, f"own {name}" in refused.text) == (422, True)
                    point_at(one, name.lower(), f"http://127.0.0.1:{port}")
                    message = end_of_message(api, name.lower(), "SET", "/pwned")
                    assert is_blocked(message, name), message
                assert register(api, "beside", sink.url).status_code == 201
                assert end_of_message(api, "beside")["status"] == "delivered"
        finally:
            one.stop()


def point_at(installation: Installation, service: str, url: str) -> None:
    """Store a service as an earlier version had it, which did not refuse its address."""
    import psycopg

    with psycopg.connect(installation.env["SWITCHBOARD_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"UPDATE integrations_service SET base_url = '{url}' WHERE name = '{service}'")
