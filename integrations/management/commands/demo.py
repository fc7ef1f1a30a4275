import asyncio
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from integrations.management.commands import up

SANDBOX_PORT = 8090  # tried first, so that the services keep their addresses from start to start


class Command(up.Command):
    help = "Runs Switchboard with sandbox services and a little traffic, in a data folder of its own (data/demo)."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--sandbox-port", type=int, default=SANDBOX_PORT, help=f"port of the sandbox (default {SANDBOX_PORT})"
        )
        parser.add_argument("--only-sandbox", action="store_true", help="the sandbox's own process; started by demo")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["only_sandbox"]:
            self._be_the_sandbox(options["sandbox_port"])
        elif not (os.environ.get("SWITCHBOARD_DATA") or os.environ.get("SWITCHBOARD_DATABASE_URL")):
            self._start_again_in(str(settings.BASE_DIR / "data" / "demo"))
        else:
            super().handle(*args, **options)

    def _start_again_in(self, folder: str) -> None:
        """The settings have been read by now, with the folder of the real installation."""
        sys.stdout.flush()
        os.execve(  # noqa: S606 - this very command line
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "SWITCHBOARD_DATA": folder}
        )

    def _be_the_sandbox(self, port: int) -> None:
        from integrations.registration import sandbox
        from integrations.workers.supervisor import die_with_parent

        die_with_parent()
        with suppress(KeyboardInterrupt):
            asyncio.run(sandbox.run(port))

    def _other_children(self, options: dict[str, Any]) -> dict[str, list[str]]:
        from integrations.models import Service
        from integrations.registration import sandbox

        named = Service.objects.filter(name__startswith=sandbox.PREFIX)
        if Service.objects.exists() and not named.exists():
            raise CommandError("This installation has services of its own: give the demo another SWITCHBOARD_DATA.")
        port = _free_port(options["sandbox_port"])
        services = sandbox.register_services(port)
        self.stdout.write(f"  {len(services)} sandbox services on 127.0.0.1:{port}, with a little traffic")
        return {"sandbox": ["demo", "--only-sandbox", "--sandbox-port", str(port)]}


def _free_port(wanted: int) -> int:
    """The wanted port, or any other where somebody has it."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise CommandError("No port of 127.0.0.1 is free for the sandbox.")
