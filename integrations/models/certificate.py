"""The certificates that servers have presented, so that operators renew one before it stops deliveries."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.utils import timezone

from integrations.outbound.exchange import PeerCertificate as Shown
from integrations.outbound.exchange import destination_of

ENDS_SOON = timedelta(days=14)
FORGOTTEN_AFTER = timedelta(days=90)  # without a handshake that presents it


def address_of(url: str) -> str:
    """The address that a call to this URL connects to, as ``host:port``. Raises ValueError if no call is possible."""
    return destination_of(url, ()).key.address


class CertificateQuerySet(models.QuerySet["Certificate"]):
    def for_url(self, url: str) -> Certificate | None:
        return self.filter(address=address_of(url)).first() if url.startswith("https:") else None

    def record(self, shown: Iterable[Shown], now: datetime) -> None:
        """Store the newest certificate of each address."""
        self.bulk_create(
            [
                self.model(address=each.address, issuer=each.issuer[:200], ends_at=each.ends_at, seen_at=now)
                for each in shown
            ],
            update_conflicts=True,
            unique_fields=["address"],
            update_fields=["issuer", "ends_at", "seen_at"],
        )

    def ending(self, now: datetime) -> CertificateQuerySet:
        """Certificates that expire soon, or have expired without a newer one."""
        return self.filter(ends_at__lt=now + ENDS_SOON)

    def prune(self, now: datetime) -> None:
        self.filter(seen_at__lt=now - FORGOTTEN_AFTER).delete()


class Certificate(models.Model):
    """The certificate that an address presented last, in a handshake that succeeded."""

    address = models.CharField(max_length=300, unique=True)  # host:port
    issuer = models.CharField(max_length=200)
    ends_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    objects: ClassVar[CertificateQuerySet] = CertificateQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.address} until {self.ends_at:%F}"

    @property
    def has_ended(self) -> bool:
        return self.ends_at <= timezone.now()

    @property
    def ends_soon(self) -> bool:
        return self.ends_at < timezone.now() + ENDS_SOON
