import sys
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from integrations.checks import WRONG_KEYS


class Command(BaseCommand):
    help = "Run Switchboard: the web server and the workers, which start and stop together."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
        parser.add_argument("--workers", type=int, default=2, help="number of pump lanes (default 2)")
        parser.add_argument("--web-workers", type=int, default=1, help="web processes that share the port (default 1)")
        parser.add_argument("--no-web", action="store_true", help="run only the workers")
        parser.add_argument("--no-workers", action="store_true", help="run only the web server")

    def handle(self, *args: Any, **options: Any) -> None:
        self._refuse_unsafe()
        self._prepare_database()
        self._check_schema()
        self._check_keys()
        self._discover()
        others = self._other_children(options)
        from integrations.workers.supervisor import Supervisor

        try:
            supervisor = Supervisor(
                host=options["host"],
                port=options["port"],
                lanes=max(1, options["workers"]),
                web=0 if options["no_web"] else max(1, options["web_workers"]),
                workers=not options["no_workers"],
                others=others,
            )
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {options['host']} port {options['port']}: {error.strerror}. Use another --port."
            ) from error
        self._greet(options)
        supervisor.run()

    def _refuse_unsafe(self) -> None:
        errors = [message for message in checks.run_checks() if message.level >= checks.ERROR]
        if errors:
            raise CommandError("\n".join(f"{error.msg} {error.hint or ''}".strip() for error in errors))

    def _prepare_database(self) -> None:
        if settings.EMBEDDED:
            settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            where = settings.DATABASES["default"]["NAME"] if settings.EMBEDDED else "SWITCHBOARD_DATABASE_URL"
            raise CommandError(f"The database ({where}) cannot be opened: {str(error).strip()}") from error

    def _check_schema(self) -> None:
        from integrations.models import schema

        found = schema.differences()
        if serious := [difference for difference in found if not difference.is_harmless]:
            said = schema.sentence(serious)
            raise CommandError(f"The database does not have the tables of this version: {said}. {schema.WHAT_TO_DO}")
        if found:
            self.stderr.write(f"Statements will be slow: {schema.sentence(found)}. {schema.WHAT_TO_DO}")

    def _check_keys(self) -> None:
        from integrations.models import Installation

        if not Installation.objects.has_right_keys():
            raise CommandError(WRONG_KEYS)
        Installation.objects.note_keys()

    def _discover(self) -> None:
        from integrations.registration import discovery

        for text in discovery.discover():
            self.stdout.write(f"  {text}")

    def _other_children(self, options: dict[str, Any]) -> dict[str, list[str]]:
        """Return further manage.py commands to run, by name. `manage.py demo` has one."""
        return {}

    def _greet(self, options: dict[str, Any]) -> None:
        from integrations.models import SetupLink

        if options["no_web"]:
            self.stdout.write("Switchboard workers are starting.")
            return
        address = f"http://{options['host']}:{options['port']}"
        self.stdout.write(f"Switchboard is starting on {address}/")
        if secret := SetupLink.objects.open():
            self.stdout.write(f"Create the first account here (the link works once): {address}/setup/{secret}/")
        sys.stdout.flush()
