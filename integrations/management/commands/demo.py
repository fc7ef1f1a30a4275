import asyncio
import os
import sys
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from integrations.management.commands import up


class Command(up.Command):
    help = "Run Switchboard with sandbox services and some traffic, in its own data folder (demo in the usual one)."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--sandbox-port", type=int, default=8090, help="port of the sandbox (default 8090)")
        parser.add_argument(
            "--no-traffic", action="store_true", help="serve the sandbox without sending messages to it"
        )
        parser.add_argument("--only-sandbox", action="store_true", help="run only the sandbox; started by demo itself")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["only_sandbox"]:
            self._run_sandbox(options["sandbox_port"], with_traffic=not options["no_traffic"])
        elif not (os.environ.get("SWITCHBOARD_DATA") or os.environ.get("SWITCHBOARD_DATABASE_URL")):
            self._restart_in(str(settings.DATA_DIR / "demo"))
        else:
            super().handle(*args, **options)

    def _restart_in(self, folder: str) -> None:
        """Run this command line again with another data folder: the settings already use the real one."""
        sys.stdout.flush()
        os.execve(  # noqa: S606 - the same command line
            sys.executable, [*settings.COMMAND_LINE, *sys.argv[1:]], {**os.environ, "SWITCHBOARD_DATA": folder}
        )

    def _run_sandbox(self, port: int, *, with_traffic: bool) -> None:
        from integrations.registration import sandbox
        from integrations.workers.supervisor import die_with_parent

        die_with_parent()
        with suppress(KeyboardInterrupt):
            asyncio.run(sandbox.run(port, with_traffic=with_traffic))

    def _other_children(self, options: dict[str, Any]) -> dict[str, list[str]]:
        from integrations.models import Service
        from integrations.registration import sandbox

        named = Service.objects.filter(name__startswith=sandbox.PREFIX)
        if Service.objects.exists() and not named.exists():
            raise CommandError("This installation already has services. Set SWITCHBOARD_DATA to an empty folder.")
        if not (port := sandbox.free_port(options["sandbox_port"])):
            raise CommandError("The sandbox found no free port on 127.0.0.1.")
        services = sandbox.register_services(port)
        self.stdout.write(f"  {len(services)} sandbox services on 127.0.0.1:{port}, with some traffic")
        return {"sandbox": ["demo", "--only-sandbox", "--sandbox-port", str(port)]}
