"""Saved views: the filters of the list of messages under a name."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from integrations.models.account import Account

VIEWS_LIMIT = 50  # for each account


class SavedViewQuerySet(models.QuerySet["SavedView"]):
    def shown_to(self, account: Account) -> SavedViewQuerySet:
        """The account's own views and the shared ones, by name."""
        return self.filter(Q(account=account) | Q(shared=True)).order_by("name", "pk")


class SavedView(models.Model):
    """A name for an address of the list: ``query`` is the part after its question mark."""

    account = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=2000)
    shared = models.BooleanField(default=False)  # visible to all accounts
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[SavedViewQuerySet] = SavedViewQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = (models.UniqueConstraint(fields=["account", "name"], name="saved_view_name_unique_for_account"),)

    def __str__(self) -> str:
        return self.name
