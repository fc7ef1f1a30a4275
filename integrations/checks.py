"""Report wrong settings in `manage.py check`, one line each: the variable, and the value to set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

from integrations.outbound.addresses import parse_networks
from integrations.outbound.own_listeners import parse_listener

WRONG_KEYS = (
    "The encryption keys are not those of this database, whose secrets cannot be read: restore keys.json from your "
    "backup, or put the right key into SWITCHBOARD_ENCRYPTION_KEYS."
)


@register(Tags.security)
def keys_are_set(**_: Any) -> Sequence[CheckMessage]:
    errors: list[CheckMessage] = []
    if not settings.KEYS.are_stored and settings.EMBEDDED:
        errors.append(
            Error(
                f"{settings.DATA_DIR / 'keys.json'} is missing, but the database exists: its secrets cannot be read "
                "without these keys. Restore the file from your backup, or set SWITCHBOARD_SECRET_KEY and "
                "SWITCHBOARD_ENCRYPTION_KEYS.",
                id="switchboard.E006",
            )
        )
    elif not settings.KEYS.are_stored:
        errors.append(
            Error(
                "SWITCHBOARD_SECRET_KEY and SWITCHBOARD_ENCRYPTION_KEYS are not both set. Machines that share a "
                "database must share its keys: set both, the same everywhere.",
                hint="python -c 'import base64, secrets; print(secrets.token_urlsafe(60)); "
                "print(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())' prints a pair.",
                id="switchboard.E001",
            )
        )
    for position, key in enumerate(settings.ENCRYPTION_KEYS, 1):
        try:
            Fernet(key)
        except ValueError:
            errors.append(
                Error(
                    f"Key {position} of SWITCHBOARD_ENCRYPTION_KEYS is not 32 bytes in URL-safe base64.",
                    hint="Separate keys by commas, the newest first.",
                    id="switchboard.E002",
                )
            )
    if len(settings.SECRET_KEY) < 32:
        errors.append(
            Error("SWITCHBOARD_SECRET_KEY has fewer than 32 characters: set a long random one.", id="switchboard.E003")
        )
    return errors


@register(Tags.security)
def hosts_are_listed(**_: Any) -> Sequence[CheckMessage]:
    if "*" in settings.ALLOWED_HOSTS:
        return [
            Error(
                "SWITCHBOARD_ALLOWED_HOSTS contains *: list the host names of this console.",
                id="switchboard.E004",
            )
        ]
    return []


OWN_MACHINE = {"localhost", ".localhost", "127.0.0.1", "[::1]"}


@register(Tags.security)
def debug_is_local(**_: Any) -> Sequence[CheckMessage]:
    others = [host for host in settings.ALLOWED_HOSTS if host not in OWN_MACHINE]
    if settings.DEBUG and others:
        return [
            Error(
                f"SWITCHBOARD_DEBUG is on, and SWITCHBOARD_ALLOWED_HOSTS contains {others[0]}: error pages would show "
                "code, settings and request data to every visitor. Unset SWITCHBOARD_DEBUG, or allow localhost only.",
                id="switchboard.E008",
            )
        ]
    return []


@register(Tags.security)
def networks_are_valid(**_: Any) -> Sequence[CheckMessage]:
    found: list[CheckMessage] = []
    for name in ("ALLOW_PRIVATE", "METRICS_ALLOW", "TRUSTED_PROXIES"):
        try:
            parse_networks(getattr(settings, name))
        except ValueError as error:
            hint = "Write a comma-separated list such as 10.0.0.0/8, fd00::/8."
            found.append(Error(f"SWITCHBOARD_{name}: {error}", hint=hint, id="switchboard.E005"))
    return found


@register(Tags.security)
def proxy_is_trusted(**_: Any) -> Sequence[CheckMessage]:
    """Without it each page would redirect to itself: no request would count as HTTPS."""
    if settings.HTTPS and not settings.TRUSTED_PROXIES:
        text = "SWITCHBOARD_HTTPS=1 needs SWITCHBOARD_TRUSTED_PROXIES: set it to the address of the TLS proxy."
        return [Error(text, hint="For a proxy on this machine: 127.0.0.1, ::1.", id="switchboard.E008")]
    return []


@register(Tags.security)
def own_ports_are_valid(**_: Any) -> Sequence[CheckMessage]:
    found: list[CheckMessage] = []
    for text in settings.OWN_PORTS:
        try:
            parse_listener(text)
        except ValueError as error:
            found.append(Error(f"SWITCHBOARD_OWN_PORT: {error}.", id="switchboard.E007"))
    return found
