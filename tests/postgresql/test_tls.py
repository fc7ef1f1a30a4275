"""TLS to PostgreSQL and Redis, as their URLs say it. PgBouncer and a relay speak it here: the test servers were built
without."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from tests.support.backends import Servers
from tests.support.installation import Installation
from tests.support.pooler import Pooler
from tests.support.receiver import Receiver

pytestmark = [pytest.mark.servers_only, pytest.mark.postgres]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ours.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "others.pem")
    return made


@pytest.fixture
def redis_port(servers: Servers, authority: trustme.CA) -> Iterator[int]:
    """A port that speaks TLS and passes all on to the Redis of the run."""
    servers.start("redis")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listening = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    relay = asyncio.start_server(_relay(servers.folder / "redis.sock"), sock=listening, ssl=context)
    server = loop.run_until_complete(relay)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


def _relay(target: Path) -> Callable[..., Any]:
    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                to.write(data)
                await to.drain()
        except OSError:
            pass
        finally:
            to.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    return relay


def test_a_certificate_of_another_authority_is_refused(servers: Servers, authority: trustme.CA, tmp_path: Path) -> None:
    pooler = Pooler(servers, "transaction", certificate=authority.issue_cert("localhost"))
    try:
        url = pooler.tls_url(servers.postgres_url(), tmp_path / "ours.pem")
        with psycopg.connect(url) as connection:
            assert connection.pgconn.ssl_in_use
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(pooler.tls_url(servers.postgres_url(), tmp_path / "others.pem"))
        with pytest.raises(psycopg.OperationalError, match="does not match host name"):
            psycopg.connect(url.replace("@localhost", "@127.0.0.1"))
    finally:
        pooler.close()


@pytest.mark.long
def test_messages_are_delivered_over_tls(
    servers: Servers,
    authority: trustme.CA,
    redis_port: int,
    start_installation: Callable[..., Installation],
    sink: Receiver,
    tmp_path: Path,
) -> None:
    pooler = Pooler(servers, "session", certificate=authority.issue_cert("localhost"))
    made = start_installation(start=False)
    database = made.env["SWITCHBOARD_REDIS_URL"].rpartition("=")[2]
    made.env["SWITCHBOARD_DATABASE_URL"] = pooler.tls_url(made.env["SWITCHBOARD_DATABASE_URL"], tmp_path / "ours.pem")
    redis = f"rediss://localhost:{redis_port}/{database}?ssl_ca_certs={tmp_path}"
    made.env["SWITCHBOARD_REDIS_URL"] = f"{redis}/others.pem"
    try:
        assert "fail: Redis cannot be reached" in made.manage("doctor", check=False).stdout
        made.env["SWITCHBOARD_REDIS_URL"] = f"{redis}/ours.pem"
        made.start()
        with made.api() as api:
            api.post("services", json={"name": "billing", "base_url": sink.url}).raise_for_status()
            for number in range(20):
                api.post("messages", json={"service": "billing", "path": f"/{number}"}).raise_for_status()
        sink.wait_for(20)
        assert "ok: Redis is reachable" in made.manage("doctor").stdout
    finally:
        made.close()
        pooler.close()
