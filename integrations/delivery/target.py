"""A service's configuration as a call needs it, parsed once for each change of the registration."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from django.conf import settings

from integrations.logs import line
from integrations.models import Runtime, Service
from integrations.outbound.addresses import Network, parse_networks
from integrations.outbound.signing import Signer
from integrations.policies import breaker, limits
from integrations.policies.limits import Timeout
from integrations.policies.retry import RetryPolicy

log = logging.getLogger("switchboard.delivery")


@dataclass(frozen=True, slots=True)
class Target:
    """A service with its policies, networks and secrets parsed."""

    service: Service
    revision: datetime  # the service's updated_at when it was parsed
    retry: RetryPolicy
    breaker: breaker.BreakerPolicy
    limits: limits.Limits
    timeouts: Timeout
    allowed: tuple[Network, ...]
    allowed_until: datetime | None  # then only what every service may reach
    secret_values: tuple[str, ...]
    signer: Signer

    def allowed_at(self, now: datetime) -> tuple[Network, ...]:
        """The private networks that a call may reach now."""
        if self.allowed_until is None or now < self.allowed_until:
            return self.allowed
        return parse_networks(settings.ALLOW_PRIVATE)


_targets: dict[int, Target] = {}  # by service id


def target_for(runtime: Runtime) -> Target | None:
    """Return the target of a locked runtime row, or None if the registration cannot be read."""
    cached = _targets.get(runtime.pk)
    if cached is not None and cached.revision == runtime.configured_at:
        return cached
    return readable_target(runtime.pk)


def readable_target(service_id: int) -> Target | None:
    """Return None, and log why, if the registration cannot be read, such as after an encryption key was lost: only
    this service's messages wait."""
    try:
        return target_of(Service.objects.get(pk=service_id))
    except Exception:
        log.exception(line("unusable", service=service_id))
        return None


def target_of(service: Service) -> Target:
    """Return the parsed configuration of a service. Raises if the registration cannot be read."""
    cached = _targets.get(service.pk)
    if cached is None or cached.revision != service.updated_at:
        cached = _targets[service.pk] = Target(
            service=service,
            revision=service.updated_at,
            retry=_retry_policy(service),
            breaker=service.breaker_policy,
            limits=service.limits_policy,
            timeouts=service.timeouts,
            allowed=service.allowed_networks,
            allowed_until=service.networks_until,
            secret_values=tuple(service.secret_values),
            signer=service.signer,
        )
    return cached


def _retry_policy(service: Service) -> RetryPolicy:
    """With OAuth 2 a 401 usually means that the token was revoked early, so it is retried with a new token."""
    policy = service.retry_policy
    if service.auth.get("type") != "oauth2":
        return policy
    return policy.model_copy(update={"retry_on": (*policy.retry_on, HTTPStatus.UNAUTHORIZED.value)})
