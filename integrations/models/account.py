"""Accounts of people, API tokens and the set-up link: sign-in and roles."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.db import models
from django.utils import timezone

from integrations.models.event import AuditEntry


class Role(models.TextChoices):
    """A viewer reads; an operator also acts; an admin also manages people, tokens, networks and deletion."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


class AccountManager(BaseUserManager["Account"]):
    def register(self, username: str, password: str, role: Role) -> Account:
        account = self.model(username=username, role=role)
        account.set_password(password)
        account.save(using=self._db)
        return account


class Account(AbstractBaseUser):
    """A person who signs in to the console."""

    username = models.CharField(max_length=150, unique=True)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.VIEWER)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    USERNAME_FIELD = "username"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects: ClassVar[AccountManager] = AccountManager()

    class Meta:
        ordering = ("username",)

    def __str__(self) -> str:
        return self.username

    def may(self, needed: Role) -> bool:
        return self.is_active and Role(self.role).covers(needed)


def digest(value: str) -> str:
    """Hash a token. Tokens are long and random, so a plain hash keeps them safe at rest and quick to look up."""
    return hashlib.sha256(value.encode()).hexdigest()


class TokenManager(models.Manager["Token"]):
    DEFAULT_LIFETIME = timedelta(days=365)  # unless the creator asks for another, or for none

    def issue(
        self, name: str, role: Role, lifetime: timedelta | None = None, by: Account | None = None
    ) -> tuple[Token, str]:
        """Create a token; returns it with its secret, which is shown once and not stored."""
        secret = f"sbt_{secrets.token_urlsafe(32)}"
        token = self.create(
            name=name,
            role=role,
            prefix=secret[:10],
            digest=digest(secret),
            expires_at=timezone.now() + lifetime if lifetime else None,
            created_by=by,
        )
        return token, secret

    def end_exceeding(self, account: Account, actor: str) -> list[Token]:
        """Delete the tokens that the account created, itself or with one of its tokens, and that may do more than it.

        Call it in the transaction that changes the account, whose row the caller has locked. Returns the tokens.
        """
        created = self.filter(created_by=account)
        ended = [token for token in created if not account.may(Role(token.role))]
        reason = (
            f"{account.username} is now {account.role}" if account.is_active else f"{account.username} was deactivated"
        )
        for token in ended:
            facts = {"role": token.role, "prefix": token.prefix}
            AuditEntry.objects.record(actor, "token.deleted", token.name, before=facts, reason=reason)
            token.delete()
        return ended

    def holding(self, secret: str) -> Token | None:
        """The token with this secret, or None if there is none or it has expired."""
        token = self.filter(digest=digest(secret)).first()
        return token if token and token.is_living(timezone.now()) else None


class Token(models.Model):
    """A key to the API. Only its hash is stored."""

    name = models.CharField(max_length=100)
    role = models.CharField(max_length=10, choices=Role.choices)
    prefix = models.CharField(max_length=12)
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    objects: ClassVar[TokenManager] = TokenManager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.name

    def is_living(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now

    def may(self, needed: Role) -> bool:
        return Role(self.role).covers(needed)

    def touch(self) -> None:
        """Record the use, at most once a minute: a busy token must not write a row for each request."""
        now = timezone.now()
        if self.last_used_at is None or now - self.last_used_at > timedelta(minutes=1):
            Token.objects.filter(pk=self.pk).update(last_used_at=now)


class SetupLinkManager(models.Manager["SetupLink"]):
    LIFETIME = timedelta(hours=24)

    def open(self) -> str | None:
        """Replace the one-time set-up link; returns its path secret, or None if an account exists."""
        if Account.objects.exists():
            return None
        secret = secrets.token_urlsafe(24)
        self.all().delete()
        self.create(digest=digest(secret), expires_at=timezone.now() + self.LIFETIME)
        return secret

    def valid(self, secret: str) -> bool:
        return (
            self.filter(digest=digest(secret), expires_at__gt=timezone.now()).exists() and not Account.objects.exists()
        )


class SetupLink(models.Model):
    """The one-time link that creates the first admin; there is no default password."""

    digest = models.CharField(max_length=64)
    expires_at = models.DateTimeField()

    objects: ClassVar[SetupLinkManager] = SetupLinkManager()

    def __str__(self) -> str:
        return f"until {self.expires_at:%F %T}"
