import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import Error


class Command(BaseCommand):
    help = "Run the web server. Internal: `up` starts this command."
    requires_system_checks: list[str] = []  # `up` has run them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--fd", type=int, help="file descriptor of a listening socket, in place of host and port")
        parser.add_argument("--heartbeat", type=int, help="file descriptor to write a byte to, once a second")

    def handle(self, *args: Any, **options: Any) -> None:
        import uvicorn
        from django.conf import settings
        from django.urls import resolve

        from integrations.api.asgi import http_protocol
        from integrations.api.asgi.events import broadcaster
        from integrations.api.asgi.routes import with_connection_check
        from integrations.models import meter, sql
        from integrations.outbound.addresses import parse_networks
        from integrations.workers.pump import freeze_startup_objects
        from integrations.workers.supervisor import beat, die_with_parent

        class Server(uvicorn.Server):
            async def on_tick(self, counter: int) -> bool:
                if options["heartbeat"] is not None and counter % 10 == 0:  # ten ticks are a second
                    beat(options["heartbeat"])
                if counter % int(meter.WRITE_EVERY * 10) == 0:
                    measuring.submit(_write_meters)
                return await super().on_tick(counter)

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                broadcaster.close()  # otherwise the server would wait for event streams, which do not end
                await super().shutdown(sockets)
                # Waited for, because the signal ends the process without its threads.
                await asyncio.wait([asyncio.wrap_future(measuring.submit(_write_meters))], timeout=1)

        @with_connection_check
        def _write_meters() -> None:
            with suppress(Error):  # the database is unreachable or busy: the sums are written the next time
                meter.write()

        measuring = ThreadPoolExecutor(1, "meters", initializer=sql.limit_lock_waits)
        die_with_parent()
        http_protocol.waiting.limit = settings.IDLE_CONNECTIONS
        http_protocol.waiting.unlimited = parse_networks(settings.TRUSTED_PROXIES)
        config = uvicorn.Config(
            "dashboard.asgi:application",
            host=options["host"],
            port=options["port"],
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            http=http_protocol.LimitedHttpProtocol,
            ws="none",
            timeout_keep_alive=http_protocol.KEEP_ALIVE,
            # uvicorn by itself believes X-Forwarded-For from 127.0.0.1, where a proxy may pass on what a client wrote.
            proxy_headers=bool(settings.TRUSTED_PROXIES),
            forwarded_allow_ips=settings.TRUSTED_PROXIES,
        )
        config.load()
        resolve("/healthz")  # imports every view before the garbage collector is frozen
        freeze_startup_objects()
        sockets = None if options["fd"] is None else [socket.socket(fileno=options["fd"])]
        Server(config).run(sockets=sockets)
