"""Register and change services. Forms, the API, files and the environment share these rules and the audit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from integrations.delivery import listeners
from integrations.errors import Conflict, Invalid
from integrations.models import AUTH_SECRETS, AuditEntry, Event, Health, Message, Ordering, Service, Source
from integrations.outbound.addresses import Network
from integrations.outbound.redaction import names_a_secret, redacted_headers, redacted_query
from integrations.outbound.signing import MAX_KEYS, SigningKeys, rotated
from integrations.outbound.urls import check_url, origin, static_refusal
from integrations.schemas.fields import utc_text
from integrations.schemas.service import NetworkRules, ServiceIn

PLAIN_FIELDS = (
    "description",
    "owner",
    "tags",
    "headers",
    "search_fields",
    "response_cap",
    "ordering",
)
POLICY_FIELDS = ("signing", "timeout", "retry", "breaker", "limits", "cache", "network", "health_check")
NETWORK_FACTS = ("allowed_by", "allowed_at")  # written by Switchboard, not by an admin
CONFIGURED = (*PLAIN_FIELDS, *POLICY_FIELDS, "base_url", "url_env", "auth")


@contextmanager
def refusing_duplicates(taken: Invalid) -> Iterator[None]:
    """Raise ``taken`` if the database refuses a duplicate: two requests can pass the check for a name at once."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        raise taken from error


class Refusals:
    """The rules that a registration breaks, so that a person corrects all of them in one round."""

    def __init__(self) -> None:
        self.errors: list[tuple[tuple[str, ...], str]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except Invalid as refusal:
            self.errors += refusal.errors

    def raise_any(self) -> None:
        if self.errors:
            raise Invalid(*self.errors)


def register(data: ServiceIn, *, actor: str, source: Source, may_allow_private: bool = False) -> Service:
    """Create a service. Raises Invalid for a taken name, a refused address, private networks without the right, or a
    header that carries a credential."""
    service = Service(name=data.name, source=source)
    with transaction.atomic():
        _apply(
            service,
            data,
            data.model_fields_set,
            actor=actor,
            may_allow_private=may_allow_private,
            is_from_file=source == Source.FILE,
        )
        with refusing_duplicates(_taken(data.name)):
            service.save()
        Health.objects.schedule(service)
        Event.objects.create(type="service.created", service=service, facts={"source": source})
        AuditEntry.objects.record(
            actor,
            "service.created",
            service.name,
            reason=_network_reason(service),
            after=masked(configuration(service)),
        )
    return service


def change(
    service: Service,
    data: ServiceIn,
    fields: set[str],
    *,
    actor: str,
    may_allow_private: bool = False,
    is_from_file: bool = False,
) -> Service:
    """Change the named ``fields`` of a service. A new host clears the secrets unless ``data`` brings new ones.

    ``is_from_file``: headers may carry credentials, which the file takes from the environment. Raises Invalid.
    """
    if "name" in fields and data.name != service.name:
        raise Invalid((("name",), "a service cannot be renamed; register a new one instead"))
    with transaction.atomic():
        # Since the caller read the row, an admin may have corrected the address and the secret, or removed a network.
        # An operator's form that wrote its own copy of them sent the new secret to the old host.
        _read_again_locked(service)
        if service.is_being_deleted:
            raise Invalid((("name",), f"{service.name} is being deleted; register it again when that is done"))
        service.bind_secrets()
        before = configuration(service)
        _apply(service, data, fields, actor=actor, may_allow_private=may_allow_private, is_from_file=is_from_file)
        # Save the given columns only: a worker may have paused the service since it was read.
        address = {"base_url", "url_env"} if fields & {"base_url", "url_env"} else set()
        service.save(update_fields=(fields & {*CONFIGURED}) | address | {"secrets", "updated_at"})
        after = configuration(service)
        changed = {name for name in after if after[name] != before.get(name)}
        if changed:
            if "health_check" in changed:
                Health.objects.schedule(service)
            if "ordering" in changed and service.ordering == Ordering.NONE:
                Message.objects.for_service(service).unpark()
            Event.objects.create(type="service.changed", service=service, facts={"fields": sorted(changed)})
            AuditEntry.objects.record(
                actor,
                "service.changed",
                service.name,
                reason=_network_reason(service) if "network" in changed else "",
                before=masked({name: before.get(name) for name in changed}),
                after=masked({name: after[name] for name in changed}),
            )
    return service


def refusal(
    service: Service, data: ServiceIn, fields: set[str], *, actor: str, may_allow_private: bool
) -> Invalid | None:
    """Return what ``register`` or ``change`` would refuse of these fields. Writes nothing; throw ``service`` away."""
    try:
        _apply(service, data, fields, actor=actor, may_allow_private=may_allow_private, is_from_file=False)
    except Invalid as found:
        return found
    return None


def _apply(
    service: Service, data: ServiceIn, fields: set[str], *, actor: str, may_allow_private: bool, is_from_file: bool
) -> None:
    refusals = Refusals()
    with refusals.noted():
        if service._state.adding and Service.objects.filter(name=service.name).exists():
            raise _taken(service.name)
    with refusals.noted():
        if "headers" in fields and not is_from_file:
            _refuse_credentials(service, data)
    with refusals.noted():
        _fill(service, data, fields, actor=actor, may_allow_private=may_allow_private)
    refusals.raise_any()


def _taken(name: str) -> Invalid:
    return Invalid((("name",), f"a service named {name} already exists; choose another name"))


def _refuse_credentials(service: Service, data: ServiceIn) -> None:
    """Raise Invalid for a new header that carries a credential: viewers read headers, and the database holds them in
    the clear. Those of earlier versions stay."""
    for name, value in data.headers.items():
        if names_a_secret(name) and service.headers.get(name) != value:
            text = (
                f"{name} carries a credential: put it into auth, which stores it encrypted (type header takes any name)"
            )
            raise Invalid((("headers",), text))


def _read_again_locked(service: Service) -> None:
    service.refresh_from_db(from_queryset=Service.objects.select_for_update(no_key=True))


def _fill(service: Service, data: ServiceIn, fields: set[str], *, actor: str, may_allow_private: bool) -> None:
    for name in PLAIN_FIELDS:
        if name in fields:
            setattr(service, name, getattr(data, name))
    _fill_policies(service, data, fields)
    refusals = Refusals()
    if "network" in fields:
        with refusals.noted():
            service.network = _networks(service, data.network, actor=actor, may_allow_private=may_allow_private)
    with refusals.noted():
        if fields & {"base_url", "url_env"}:
            _fill_address(service, data)
        _check_reachable(service, ("base_url",), service.base_url)
    with refusals.noted():
        if "auth" in fields:
            _fill_auth(service, data)
        _check_reachable(service, ("auth", "token_url"), service.auth.get("token_url"))
    refusals.raise_any()


def _fill_policies(service: Service, data: ServiceIn, fields: set[str]) -> None:
    for name in POLICY_FIELDS:
        if name in fields and name != "network":
            setattr(service, name, getattr(data, name).model_dump(mode="json"))
    if service.signing.get("enabled") and not service.signing_keys:
        service.keep_signing_keys([SigningKeys.make(timezone.now())])


def _networks(service: Service, rules: NetworkRules, *, actor: str, may_allow_private: bool) -> dict[str, Any]:
    """Return the networks as they are stored, with who allowed them and when. Raises Invalid."""
    present, wanted = network_rules(service), rules.model_dump(mode="json")
    is_wider = not set(wanted["allow_private"]) <= set(present["allow_private"])
    needs_reason = is_wider or wanted["until"] != present["until"]
    if not needs_reason:
        # Also those of earlier versions, which asked for no reason, and of a services file without one.
        wanted["reason"] = wanted["reason"] or present["reason"]
    if wanted == present:
        return dict(service.network)
    if not may_allow_private:
        raise Invalid((("network", "allow_private"), "only an admin may allow private networks"))
    if not wanted["allow_private"]:
        return {"allow_private": []}
    if needs_reason and not wanted["reason"]:
        raise Invalid((("network", "reason"), "say why these networks are allowed"))
    if wanted["until"] != present["until"] and rules.until is not None and rules.until <= timezone.now():
        raise Invalid((("network", "until"), "must be in the future"))
    return {**wanted, "allowed_by": actor, "allowed_at": utc_text(timezone.now())}


def network_rules(service: Service) -> dict[str, Any]:
    """The networks of a service as a registration names them."""
    present = {"allow_private": [], "reason": "", "until": None, **service.network}
    return {name: present[name] for name in NetworkRules.model_fields}


def _network_reason(service: Service) -> str:
    return str(network_rules(service)["reason"])


def _fill_address(service: Service, data: ServiceIn) -> None:
    host_before = origin(service.base_url)
    if data.url_env:
        if not (address := os.environ.get(data.url_env, "").strip()):
            raise Invalid((("url_env",), f"{data.url_env} is not set in the environment"))
        if refusal := check_url(address):
            raise Invalid((("url_env",), f"{data.url_env}: {refusal}"))
        service.base_url, service.url_env = address, data.url_env
    else:
        service.base_url, service.url_env = data.base_url or "", ""
    if service.pk and host_before != origin(service.base_url):
        service.forget_secrets()


def _check_reachable(service: Service, location: tuple[str, ...], url: str | None) -> None:
    if url is not None and (refusal := address_refusal(url, service.allowed_networks)):
        raise Invalid((location, refusal))


def address_refusal(url: str, allowed: Sequence[Network]) -> str | None:
    """Return the reason why each call to this URL would be refused, as far as its text tells, or None."""
    listeners.refresh_if_old()
    return static_refusal(url, allowed) or listeners.known().refusal_of_url(url)


def _fill_auth(service: Service, data: ServiceIn) -> None:
    auth = data.auth
    secret_names = AUTH_SECRETS[auth.type]
    if service.auth.get("type") != auth.type or (
        auth.type == "oauth2" and origin(service.auth.get("token_url", "")) != origin(auth.token_url or "")
    ):
        service.secrets = {name: kept for name, kept in service.secrets.items() if not name.startswith("auth.")}
    plain = auth.model_dump(exclude_none=True, exclude={name for names in AUTH_SECRETS.values() for name in names})
    if auth.type == "hmac":
        plain.setdefault("algorithm", "sha256")
    service.auth = plain
    for name in secret_names:
        if value := getattr(auth, name):
            service.keep_secret(f"auth.{name}", value)
        elif service.secret(f"auth.{name}") is None:
            raise Invalid((("auth", name), f"{auth.type} authentication needs {name}"))


def masked(configuration: dict[str, Any]) -> dict[str, Any]:
    """Mask what headers and parameters name as credentials, for viewers and the audit log."""
    shown = dict(configuration)
    if shown.get("headers"):
        shown["headers"] = dict(redacted_headers(shown["headers"].items(), ()))
    if shown.get("query"):
        shown["query"] = redacted_query(shown["query"])
    return shown


def configuration(service: Service) -> dict[str, Any]:
    """Return the settings. A secret of ``auth`` appears only as ``set`` and ``set_at``; see ``masked`` for headers."""
    auth: dict[str, Any] = dict(service.auth)
    for name in AUTH_SECRETS.get(service.auth.get("type", "none"), ()):
        auth[name] = {
            "set": service.secret(f"auth.{name}") is not None,
            "set_at": service.secret_set_at(f"auth.{name}"),
        }
    keys = service.signing_keys
    return {
        "name": service.name,
        "base_url": service.base_url,
        "url_env": service.url_env or None,
        **{name: getattr(service, name) for name in PLAIN_FIELDS},
        "auth": auth,
        "signing": {"enabled": False, **service.signing, "public_key": keys[0].public_key if keys else None},
        "timeout": service.timeouts.model_dump(mode="json"),
        "retry": service.retry_policy.model_dump(mode="json"),
        "breaker": service.breaker_policy.model_dump(mode="json"),
        "limits": service.limits_policy.model_dump(mode="json"),
        "cache": {"ttl": 0, **service.cache},
        "network": {**network_rules(service), **{name: service.network.get(name) for name in NETWORK_FACTS}},
        "health_check": {"path": "/", "interval": 0, "expect": "2xx", **service.health_check},
    }


def rotate_signing(service: Service, overlap: timedelta, *, actor: str) -> list[SigningKeys]:
    """Create new signing keys; the previous ones also sign for ``overlap``. Return all keys, newest first.

    Raises Conflict if too many would sign at once.
    """
    now = timezone.now()
    with transaction.atomic():
        _read_again_locked(service)
        before = service.signing_keys
        keys = rotated(before, now, overlap)
        if len(keys) > MAX_KEYS:
            raise Conflict(
                f"{MAX_KEYS} secrets are already in use; the next one expires at "
                f"{keys[-1].valid_until:%Y-%m-%dT%H:%M:%SZ}. Wait until then, or rotate with an overlap of 0 to retire "
                "all of them at once."
            )
        service.keep_signing_keys(keys)
        service.save(update_fields=["secrets", "updated_at"])
        Event.objects.create(type="service.changed", service=service, facts={"fields": ["signing"]})
        AuditEntry.objects.record(
            actor,
            "signing.rotated",
            service.name,
            before={"public_key": before[0].public_key} if before else {},
            after={"public_key": keys[0].public_key, "overlap": overlap.total_seconds()},
        )
    return keys
