"""A service's configuration as a call needs it, parsed once for each change of the registration."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from integrations.logs import line
from integrations.models import (
    Runtime,
    Service,
)
from integrations.outbound.addresses import Network
from integrations.outbound.signing import Signer
from integrations.policies import breaker, limits
from integrations.policies.limits import Timeout
from integrations.policies.retry import RetryPolicy

log = logging.getLogger("switchboard.delivery")


@dataclass(frozen=True, slots=True)
class Target:
    """A service's configuration, parsed once for each change of it."""

    service: Service
    revision: datetime  # its updated_at when it was parsed
    retry: RetryPolicy
    breaker: breaker.BreakerPolicy
    limits: limits.Limits
    timeouts: Timeout
    allowed: tuple[Network, ...]
    secret_values: tuple[str, ...]
    signer: Signer


_targets: dict[int, Target] = {}


def target_of(service: Service) -> Target:
    kept = _targets.get(service.pk)
    if kept is None or kept.revision != service.updated_at:
        kept = _targets[service.pk] = Target(
            service=service,
            revision=service.updated_at,
            retry=_retry_policy(service),
            breaker=service.breaker_policy,
            limits=service.limits_policy,
            timeouts=service.timeouts,
            allowed=service.allowed_networks,
            secret_values=tuple(service.secret_values),
            signer=service.signer,
        )
    return kept


def target_for(runtime: Runtime) -> Target | None:
    """None for a registration that cannot be read (a lost encryption key): it holds its own messages, nobody else's."""
    kept = _targets.get(runtime.pk)
    if kept is not None and kept.revision == runtime.configured_at:
        return kept
    try:
        return target_of(Service.objects.get(pk=runtime.pk))
    except Exception:
        log.exception(line("unusable", service=runtime.pk))
        return None


def _retry_policy(service: Service) -> RetryPolicy:
    """With OAuth 2 a 401 mostly means that the token has ended early: it is tried again, with a fresh one."""
    policy = service.retry_policy
    if service.auth.get("type") != "oauth2":
        return policy
    return policy.model_copy(update={"retry_on": (*policy.retry_on, HTTPStatus.UNAUTHORIZED.value)})
