"""Web servers: one row for each `manage.py up` with a console, so that no worker anywhere calls its port."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db import models

ANNOUNCED_FOR = timedelta(minutes=10)  # a port that is refused for too long does less harm than one that is open
ANNOUNCE_EVERY = 30.0  # seconds
ANNOUNCE_AGAIN = 2.0  # seconds, after one that failed


class WebServerQuerySet(models.QuerySet["WebServer"]):
    def announced(self, now: datetime) -> WebServerQuerySet:
        return self.filter(announced_until__gt=now)

    def announce(self, cluster: str, *, host: str, port: int, addresses: Sequence[str], now: datetime) -> None:
        """Write or renew the row of a web server, and delete those that were not renewed."""
        self.filter(announced_until__lte=now).delete()
        facts: dict[str, Any] = {"host": host, "port": port, "addresses": list(addresses)}
        self.update_or_create(cluster=cluster, defaults={**facts, "announced_until": now + ANNOUNCED_FOR})

    def withdraw(self, cluster: str) -> None:
        self.filter(cluster=cluster).delete()


class WebServer(models.Model):
    """A port on which this installation's console listens. Several processes may share it."""

    cluster = models.CharField(max_length=100, unique=True)  # of its `manage.py up`
    host = models.CharField(max_length=200)
    port = models.PositiveIntegerField()
    addresses = models.JSONField(default=list)  # by which other machines reach it
    announced_until = models.DateTimeField()

    objects: ClassVar[WebServerQuerySet] = WebServerQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
