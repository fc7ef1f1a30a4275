"""Messages on their way to Switchboard."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class State(models.TextChoices):
    WAITING = "waiting"
    HANDED_OVER = "handed_over"
    REFUSED = "refused"


class OutboxMessage(models.Model):
    """A message of this project: waiting until Switchboard has stored it, or refused by Switchboard for good."""

    batch = models.UUIDField(null=True, db_index=True)  # sent with these others, and this is the Idempotency-Key
    request = models.TextField()  # the message's exact text: a repeated key needs the same bytes
    state = models.CharField(max_length=11, choices=State.choices, default=State.WAITING)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)
    message_id = models.CharField(max_length=100, blank=True)  # Switchboard's id, once handed over
    error = models.TextField(blank=True)  # why Switchboard refused it

    objects: ClassVar[models.Manager[OutboxMessage]] = models.Manager()

    class Meta:
        indexes = [
            models.Index(fields=["id"], name="switchboard_outbox_waiting", condition=models.Q(state=State.WAITING)),
            models.Index(fields=["state", "finished_at"], name="switchboard_outbox_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.pk} ({self.state})"
