"""Services and their endpoints, as operators register them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import count, takewhile
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone

from integrations.models.fields import EncryptedJSONField
from integrations.models.runtime import Runtime
from integrations.outbound.addresses import Network, parse_networks
from integrations.outbound.signing import Signer, SigningKeys
from integrations.outbound.urls import origin
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.limits import Limits, Timeout
from integrations.policies.retry import RetryPolicy


def default_auth() -> dict[str, Any]:
    return {"type": "none"}


# The secret fields of each kind of authentication; its other fields are plain configuration.
AUTH_SECRETS = {
    "none": (),
    "basic": ("password",),
    "bearer": ("token",),
    "header": ("value",),
    "oauth2": ("client_secret",),
    "hmac": ("secret",),
}


class ServiceStatus(models.TextChoices):
    ACTIVE = "active"
    PAUSED = "paused"
    DELETING = "deleting"  # it accepts no message and makes no call; see integrations/registration/deletion.py


class Source(models.TextChoices):
    """The source of a registration."""

    FORM = "form"
    API = "api"
    FILE = "file"
    ENVIRONMENT = "environment"


class Ordering(models.TextChoices):
    NONE = "none"
    KEY = "key"


# Accepting a message reads these columns. By hand: for all 45 columns the ORM takes 0.4 ms longer to build the
# statement, and every group of accepted messages runs it.
TO_ACCEPT = """SELECT id, name, base_url, status, paused_reason, paused_until, breaker, limits, retry, search_fields
FROM integrations_service WHERE name IN ({places})"""


class ServiceQuerySet(models.QuerySet["Service"]):
    def active(self) -> ServiceQuerySet:
        return self.filter(status=ServiceStatus.ACTIVE)

    def to_accept_for(self, names: Iterable[str]) -> list[Service]:
        """The services of these names, with the columns that accepting a message reads and with their runtime rows."""
        if not (distinct := sorted(set(names))):
            return []
        statement = TO_ACCEPT.format(places=", ".join(["%s"] * len(distinct)))
        services = {service.pk: service for service in self.raw(statement, distinct)}
        for runtime in Runtime.objects.filter(service__in=list(services)):
            runtime.service = services[runtime.service_id]
        return list(services.values())


class Service(models.Model):
    """An external HTTP service and the policy for calling it.

    The JSON columns hold the objects of docs/contract.md as registered; the properties below read them with their
    defaults. The workers' counts live in ``Runtime``, never here: an operator's form must not overwrite them.
    """

    name = models.SlugField(max_length=63, unique=True)
    base_url = models.CharField(max_length=2000, blank=True)
    url_env = models.CharField(max_length=120, blank=True)
    description = models.TextField(blank=True)
    owner = models.CharField(max_length=200, blank=True)
    tags = models.JSONField(default=list, blank=True)
    headers = models.JSONField(default=dict, blank=True)
    search_fields = models.JSONField(default=list, blank=True)
    auth = models.JSONField(default=default_auth, blank=True)
    # {"auth.password": {"value": …, "set_at": …, "for": [origin…]}}: write-only, see secret() and secret_for_call()
    secrets = EncryptedJSONField(default=dict, editable=False)
    signing = models.JSONField(default=dict, blank=True)
    timeout = models.JSONField(default=dict, blank=True)
    response_cap = models.PositiveIntegerField(default=65536)
    retry = models.JSONField(default=dict, blank=True)
    breaker = models.JSONField(default=dict, blank=True)
    limits = models.JSONField(default=dict, blank=True)
    ordering = models.CharField(max_length=4, choices=Ordering.choices, default=Ordering.NONE)
    cache = models.JSONField(default=dict, blank=True)
    network = models.JSONField(default=dict, blank=True)
    health_check = models.JSONField(default=dict, blank=True)

    status = models.CharField(max_length=8, choices=ServiceStatus.choices, default=ServiceStatus.ACTIVE)
    paused_reason = models.CharField(max_length=500, blank=True)
    paused_until = models.DateTimeField(null=True, blank=True)
    source = models.CharField(max_length=11, choices=Source.choices, default=Source.FORM)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[ServiceQuerySet] = ServiceQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and create the runtime row of a new service: workers can claim for every registered service."""
        with transaction.atomic():
            super().save(*args, **kwargs)
            Runtime.objects.get_or_create(service=self)

    # ---- policy, read with its defaults --------------------------------------------------------------------------
    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy.model_validate(self.retry)

    @property
    def breaker_policy(self) -> BreakerPolicy:
        return BreakerPolicy.model_validate(self.breaker)

    @property
    def limits_policy(self) -> Limits:
        return Limits.model_validate(self.limits)

    @property
    def timeouts(self) -> Timeout:
        return Timeout.model_validate(self.timeout)

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """The private networks that this service may reach until ``networks_until``: the installation's and its own."""
        own = ",".join(self.network.get("allow_private", []))
        return parse_networks(settings.ALLOW_PRIVATE) + parse_networks(own)

    @property
    def networks_until(self) -> datetime | None:
        """When its own networks end; None is never."""
        until = self.network.get("until")
        return datetime.fromisoformat(until) if until else None

    @property
    def networks_allowed_at(self) -> datetime | None:
        """When an admin allowed its own networks; None for those of earlier versions."""
        allowed_at = self.network.get("allowed_at")
        return datetime.fromisoformat(allowed_at) if allowed_at else None

    def networks_have_ended(self, now: datetime) -> bool:
        return self.networks_until is not None and now >= self.networks_until

    @property
    def is_paused(self) -> bool:
        return self.status == ServiceStatus.PAUSED

    @property
    def is_being_deleted(self) -> bool:
        return self.status == ServiceStatus.DELETING

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    # ---- secrets ---------------------------------------------------------------------------------------------------
    def secret(self, name: str) -> str | None:
        entry = self.secrets.get(name)
        return None if entry is None else entry["value"]

    def secret_for_call(self, name: str) -> str:
        """Return a secret of ``auth``, or "" if it is not set.

        Raises ValueError if it was stored for another origin: whichever writes raced, the new host gets no secret of
        the old host. An entry of an earlier version has no origin and belongs to the present address: that version
        cleared the secrets of another host, and a refusal would stop every service after the upgrade.
        """
        entry = self.secrets.get(name)
        if entry is None:
            return ""
        if entry.get("for", self.secret_origins) != self.secret_origins:
            bound, present = " and ".join(entry["for"]), " and ".join(self.secret_origins)
            raise ValueError(
                f"the stored {name.removeprefix('auth.')} is for {bound}, but the service now calls {present}; "
                "enter the secret again if the new address is right"
            )
        return str(entry["value"])

    @property
    def secret_origins(self) -> list[str]:
        """The origins that get a secret of ``auth``: the address, and with OAuth 2 also the token URL."""
        is_oauth = self.auth.get("type") == "oauth2"
        return [origin(self.base_url), *([origin(self.auth.get("token_url", ""))] if is_oauth else [])]

    def bind_secrets(self, *, again: bool = False) -> None:
        """Bind each secret of ``auth`` without origins, or with ``again`` every one, to the present origins; the caller
        saves."""
        self.secrets = {
            name: {**entry, "for": self.secret_origins}
            if name.startswith("auth.") and (again or "for" not in entry)
            else entry
            for name, entry in self.secrets.items()
        }

    def secret_set_at(self, name: str) -> str | None:
        entry = self.secrets.get(name)
        return None if entry is None else entry["set_at"].replace("+00:00", "Z")

    def keep_secret(self, name: str, value: str) -> None:
        """Set a secret for the present origins; the caller saves. An unchanged secret keeps its time."""
        set_at = self.secret_set_at(name) if self.secret(name) == value else timezone.now().isoformat()
        self.secrets = {**self.secrets, name: {"value": value, "set_at": set_at, "for": self.secret_origins}}

    def forget_secrets(self) -> None:
        """Remove the secrets, since a new host must not receive those of the old host; the caller saves. Signing keys
        stay: Switchboard made them, and no call carries them."""
        self.secrets = {name: entry for name, entry in self.secrets.items() if name.startswith("signing.")}

    @property
    def secret_values(self) -> list[str]:
        """Every secret that the service knows, in the clear, for redaction only."""
        return [entry["value"] for entry in self.secrets.values()]

    # ---- signing ---------------------------------------------------------------------------------------------------
    @property
    def signer(self) -> Signer:
        """The signer of its calls; without keys if signing is off."""
        return Signer(self.signing_keys if self.signing.get("enabled") else ())

    @property
    def signing_keys(self) -> list[SigningKeys]:
        """The current keys, then the old keys that are still valid after a rotation: newest first."""
        entries = takewhile(bool, (self.secrets.get(f"signing.{number}") for number in count()))
        found = [
            SigningKeys(
                secret=entry["value"],
                private_key=entry["private_key"],
                made_at=datetime.fromisoformat(entry["set_at"]),
                valid_until=datetime.fromisoformat(entry["valid_until"]) if entry["valid_until"] else None,
            )
            for entry in entries
            if entry
        ]
        now = timezone.now()
        return [keys for keys in found if keys.is_valid(now)]

    def keep_signing_keys(self, keys: Sequence[SigningKeys]) -> None:
        """Replace the signing keys; the caller saves."""
        kept = {name: entry for name, entry in self.secrets.items() if not name.startswith("signing.")}
        for number, pair in enumerate(keys):
            kept[f"signing.{number}"] = {
                "value": pair.secret,
                "private_key": pair.private_key,
                "set_at": pair.made_at.isoformat(),
                "valid_until": pair.valid_until.isoformat() if pair.valid_until else None,
            }
        self.secrets = kept

    # ---- pause and resume ------------------------------------------------------------------------------------------
    def pause(self, reason: str, until: datetime | None = None) -> bool:
        """Hold this service's messages; False if it was paused already (the new reason and end are stored)."""
        was_active = Service.objects.filter(pk=self.pk, status=ServiceStatus.ACTIVE).update(
            status=ServiceStatus.PAUSED, paused_reason=reason, paused_until=until
        )
        if not was_active:
            Service.objects.filter(pk=self.pk).update(paused_reason=reason, paused_until=until)
        self.refresh_from_db(fields=["status", "paused_reason", "paused_until"])
        return bool(was_active)

    def reactivate(self) -> bool:
        """End a pause, without a decision about the backlog (see ``resume`` in operators/traffic.py); False if there
        was no pause."""
        resumed = Service.objects.filter(pk=self.pk, status=ServiceStatus.PAUSED).update(
            status=ServiceStatus.ACTIVE, paused_reason="", paused_until=None
        )
        self.refresh_from_db(fields=["status", "paused_reason", "paused_until"])
        return bool(resumed)


class Endpoint(models.Model):
    """A named operation of a service; a message to it may override query, headers and body."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="endpoints")
    name = models.SlugField(max_length=63)
    method = models.CharField(max_length=20, default="POST")
    path = models.CharField(max_length=2000, default="/")
    query = models.JSONField(default=dict, blank=True)
    headers = models.JSONField(default=dict, blank=True)
    content_type = models.CharField(max_length=200, default="application/json", blank=True)
    body = models.TextField(blank=True)
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["service", "name"], name="endpoint_name_unique_in_service"),)

    def __str__(self) -> str:
        return f"{self.service.name}/{self.name}"
