from __future__ import annotations

from typing import ClassVar

from django.db import models


class Order(models.Model):
    number = models.IntegerField(unique=True)

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return str(self.number)
