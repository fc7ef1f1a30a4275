"""Store messages in the caller's transaction, and hand them over to Switchboard in their order.

A message goes out only when every older one that can be seen has been stored by Switchboard or refused, and all
attempts of one carry the same Idempotency-Key. So any number of processes may hand over at once without a lock: none
overtakes another, and Switchboard stores each message once.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import Unpack

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import QuerySet
from django.utils import timezone

from switchboard_client.client import Client, MessageFields, encode_message
from switchboard_client.django.models import OutboxMessage, State
from switchboard_client.errors import Refused, SwitchboardError

logger = logging.getLogger("switchboard_client")

AFTER_COMMIT_TIMEOUT = 2.0  # seconds; the caller, such as a web request, waits for it
OWN_FAULT = frozenset({400, 409, 413, 415, 422})  # refusals of the message itself: waiting would not help


def store(service: str, *, using: str | None = None, **fields: Unpack[MessageFields]) -> OutboxMessage:
    database = using or DEFAULT_DB_ALIAS
    row = OutboxMessage.objects.using(database).create(request=encode_message(service, **fields).decode())
    transaction.on_commit(partial(_hand_over_now, row, database), using=database, robust=True)
    return row


def _hand_over_now(row: OutboxMessage, database: str) -> None:
    """Hand over a message at once if no older one waits; else the command will. So an outage delays one caller."""
    if waiting(database).filter(pk__lt=row.pk).exists():
        return
    with client(attempts=1, timeout=AFTER_COMMIT_TIMEOUT) as switchboard:
        try:
            hand_over(row, switchboard)
        except SwitchboardError as error:
            logger.warning("message %s stays in the outbox: %s", row.key, error)


def waiting(database: str | None) -> QuerySet[OutboxMessage]:
    return OutboxMessage.objects.using(database).filter(state=State.WAITING)


def hand_over(row: OutboxMessage, switchboard: Client) -> None:
    """Give a message to Switchboard and write what it said.

    Raises SwitchboardError if it gave no answer, or one that is no fault of the message, such as an expired token.
    """
    try:
        accepted = switchboard.send_encoded(row.request.encode(), idempotency_key=str(row.key))
    except Refused as refused:
        if refused.status not in OWN_FAULT:
            raise
        logger.error("Switchboard refused message %s of the outbox: %s", row.key, refused)
        _finish(row, state=State.REFUSED, error=str(refused))
    else:
        _finish(row, state=State.HANDED_OVER, message_id=accepted["id"])


def _finish(row: OutboxMessage, **result: str) -> None:
    waiting(row._state.db).filter(pk=row.pk).update(finished_at=timezone.now(), **result)


def hand_over_waiting(switchboard: Client, database: str = DEFAULT_DB_ALIAS) -> int:
    """Hand over all waiting messages, oldest first, and return how many. Raises as `hand_over`."""
    count = 0
    while (row := waiting(database).order_by("pk").first()) is not None:
        hand_over(row, switchboard)
        count += 1
    return count


def delete_handed_over(older_than: timedelta, database: str = DEFAULT_DB_ALIAS) -> int:
    """Delete messages that were handed over so long ago, and return how many. Refused ones stay."""
    finished = OutboxMessage.objects.using(database).filter(state=State.HANDED_OVER)
    count, _ = finished.filter(finished_at__lt=timezone.now() - older_than).delete()
    return count


def client(*, attempts: int, timeout: float) -> Client:
    given = settings.SWITCHBOARD  # type: ignore[misc]  # Django's checks say if it is missing
    return Client(given["url"], given["token"], attempts=attempts, timeout=timeout)
