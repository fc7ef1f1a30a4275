from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Run the worker processes. Internal: `up` starts this command."
    requires_system_checks: list[str] = []  # `up` has run them

    def handle(self, *args: Any, **options: Any) -> None:
        from integrations.workers.supervisor import run_cluster

        run_cluster()
