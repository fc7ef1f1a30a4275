import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, OperationalError

from integrations.backups import upgrade
from integrations.backups.errors import BackupError
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
        parser.add_argument(
            "--migrate", action="store_true", help="on PostgreSQL: bring an older database to this version first"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._refuse_unsafe()
        self._check_pooler()
        self._prepare_database(may_migrate=options["migrate"])
        self._check_schema()
        self._check_keys()
        self._discover()
        others = self._other_children(options)
        remind = self._greeting(options)
        from integrations.workers.supervisor import Supervisor

        try:
            supervisor = Supervisor(
                host=options["host"],
                port=options["port"],
                lanes=max(1, options["workers"]),
                web=0 if options["no_web"] else max(1, options["web_workers"]),
                workers=not options["no_workers"],
                others=others,
                remind=remind,
            )
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {options['host']} port {options['port']}: {error.strerror}. Use another --port."
            ) from error
        if settings.EMBEDDED:
            self.stdout.write(f"The data folder is {settings.DATA_DIR}.")
        self.stdout.write(f"Switchboard is starting{'' if options['no_web'] else f' on {_address(options)}/'}.")
        sys.stdout.flush()
        supervisor.run()

    def _refuse_unsafe(self) -> None:
        errors = [message for message in checks.run_checks() if message.level >= checks.ERROR]
        if errors:
            raise CommandError("\n".join(f"{error.msg} {error.hint or ''}".strip() for error in errors))

    def _check_pooler(self) -> None:
        if settings.EMBEDDED:
            return
        from integrations.models import pooler

        try:
            if refusal := pooler.refusal():
                raise CommandError(refusal)
            for warning in pooler.warnings():
                self.stderr.write(f"{warning[0].upper()}{warning[1:]}.")
        except DatabaseError as error:
            raise CommandError(_cannot_open(error)) from error

    def _prepare_database(self, may_migrate: bool) -> None:
        """Bring the tables to this version: an empty database and the embedded one by itself, the latter after a
        backup; PostgreSQL's, which other machines may share, only if told."""
        if settings.EMBEDDED:
            settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        try:
            missing, is_new = upgrade.missing_migrations()
            if missing and not is_new:
                if not settings.EMBEDDED and not may_migrate:
                    raise CommandError(upgrade.refusal(missing))
                if settings.EMBEDDED:
                    self.stdout.write(f"Backed up to {upgrade.back_up()} before the migration.")
            if missing:
                call_command("migrate", verbosity=0, interactive=False)
        except BackupError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise CommandError(_cannot_open(error)) from error

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

    def _greeting(self, options: dict[str, Any]) -> Callable[[], bool] | None:
        """Return what prints the set-up link, and returns whether to print it again; None if no link is needed."""
        from integrations.models import SetupLink

        if options["no_web"] or not (secret := SetupLink.objects.open()):
            return None

        def print_link() -> bool:
            if not SetupLink.objects.valid(secret):
                return False
            self.stdout.write(
                f"\nCreate the first account here (the link works once): {_console(options)}/setup/{secret}/\n"
            )
            sys.stdout.flush()
            return True

        return print_link


def _cannot_open(error: Exception) -> str:
    where = settings.DATABASES["default"]["NAME"] if settings.EMBEDDED else "SWITCHBOARD_DATABASE_URL"
    return f"The database ({where}) cannot be opened: {str(error).strip()}"


def _console(options: dict[str, Any]) -> str:
    """Return the console's URL for a browser: of the proxy in front, or of this machine if it listens everywhere."""
    if settings.HTTPS:
        return f"https://{settings.ALLOWED_HOSTS[0].lstrip('.')}"
    host = "localhost" if options["host"] in ("0.0.0.0", "::") else options["host"]  # noqa: S104 - read, not bound
    return _address({**options, "host": host})


def _address(options: dict[str, Any]) -> str:
    host = f"[{options['host']}]" if ":" in options["host"] else options["host"]
    return f"http://{host}:{options['port']}"
