import asyncio
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    help = "Deliver due messages in this process, without django-q2: from cron, or to debug a delivery."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, help="stop after this time; default: when no message is due")
        parser.add_argument(
            "--suspects", action="store_true", help="deliver only messages whose last claim was lost, one at a time"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from integrations.workers.pump import freeze_startup_objects, new_loop
        from integrations.workers.supervisor import die_with_parent

        die_with_parent()
        freeze_startup_objects()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._deliver(options["seconds"], options["suspects"]))

    async def _deliver(self, seconds: float | None, suspects: bool) -> None:
        from integrations.workers.pump import Pump

        pump = Pump(f"{settings.CLUSTER}-{'suspects' if suspects else 'deliver'}", alone=suspects)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, pump.stop)
        await pump.run(seconds, until_idle=seconds is None)
        await pump.close()
