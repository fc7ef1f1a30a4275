"""Store messages in the caller's transaction, and hand them over to Switchboard in their order.

Messages go out in batches, the oldest first. A batch is written down before it is sent, and its key is the
Idempotency-Key of all attempts. It goes out only when every older message that can be seen has been stored by
Switchboard or refused. So any number of processes may hand over at once without a lock: no message overtakes another,
and Switchboard stores each once.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from itertools import takewhile
from typing import Unpack
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import QuerySet
from django.utils import timezone

from switchboard_client.client import Client, MessageFields, encode_message
from switchboard_client.django.models import OutboxMessage, State
from switchboard_client.errors import Refused, SwitchboardError

logger = logging.getLogger("switchboard_client")

AFTER_COMMIT_TIMEOUT = 2.0  # seconds; the caller, such as a web request, waits for it
BATCH_COUNT = 100  # messages
BATCH_SIZE = 3 * 1024 * 1024  # characters; in UTF-8 at most 12 MiB, and Switchboard takes 16
MESSAGE_SIZE = 2 * 1024 * 1024  # bytes of a request, as Switchboard takes it
OWN_FAULT = frozenset({400, 413, 415, 422})  # refusals of the content: waiting would not help


def store(service: str, *, using: str | None = None, **fields: Unpack[MessageFields]) -> OutboxMessage:
    database = using or DEFAULT_DB_ALIAS
    encoded = encode_message(service, **fields)
    if len(encoded) > MESSAGE_SIZE:
        raise ValueError(f"the message has {len(encoded):,} bytes; the limit is {MESSAGE_SIZE:,}")
    row = OutboxMessage.objects.using(database).create(request=encoded.decode())
    transaction.on_commit(partial(_hand_over_now, row, database), using=database, robust=True)
    return row


def _hand_over_now(row: OutboxMessage, database: str) -> None:
    """Hand over a message at once if no older one waits; else the command will. So an outage delays one caller."""
    if waiting(database).first() != row:
        return
    with client(attempts=1, timeout=AFTER_COMMIT_TIMEOUT) as switchboard:
        try:
            hand_over_oldest(switchboard, database)
        except SwitchboardError as error:
            logger.warning("message %s stays in the outbox: %s", row.pk, error)


def waiting(database: str) -> QuerySet[OutboxMessage]:
    """Return the messages to hand over, oldest first."""
    return OutboxMessage.objects.using(database).filter(state=State.WAITING).order_by("pk")


def hand_over_oldest(switchboard: Client, database: str = DEFAULT_DB_ALIAS) -> bool:
    """Hand over the oldest batch; False if nothing waits.

    Raises SwitchboardError if there was no answer, or one that is no fault of a message, such as an expired token.
    """
    while (oldest := waiting(database).first()) is not None:
        if oldest.batch is not None:
            _hand_over_batch(oldest.batch, switchboard, database)
            return True
        _form_batch(database)
    return False


def _form_batch(database: str) -> None:
    """Make the oldest messages a batch, up to the first that belongs to one already."""
    chosen: list[int] = []
    size = 0
    for row in takewhile(lambda row: row.batch is None, waiting(database)[:BATCH_COUNT]):
        size += len(row.request)
        if chosen and size > BATCH_SIZE:
            break
        chosen.append(row.pk)
    with transaction.atomic(using=database):
        formed = waiting(database).filter(pk__in=chosen, batch=None).update(batch=uuid4())
        if formed != len(chosen):  # another process took one in between, and the ones behind it must not overtake it
            transaction.set_rollback(True, using=database)


def _hand_over_batch(batch: UUID, switchboard: Client, database: str) -> None:
    rows = list(waiting(database).filter(batch=batch))
    if not rows:
        return  # another process was faster
    try:
        result = switchboard.send_many_encoded([row.request.encode() for row in rows], str(batch))
    except Refused as refused:
        if refused.status not in OWN_FAULT:
            raise
        if len(rows) > 1:
            _split(rows, batch, database)
        else:
            _refuse(rows[0], str(refused))
            _write(rows, database)
        return
    for accepted in result["accepted"]:
        row = rows[accepted["index"]]
        row.state, row.message_id = State.HANDED_OVER, accepted["id"]
    for rejected in result["rejected"]:
        problem = rejected["error"]
        _refuse(rows[rejected["index"]], f"{problem['status']} {problem['title']}: {problem['detail']}")
    _write(rows, database)


def _split(rows: list[OutboxMessage], batch: UUID, database: str) -> None:
    """Make each message a batch of its own: one of them makes Switchboard refuse them all, such as for its depth."""
    with transaction.atomic(using=database):
        for row in rows:
            waiting(database).filter(pk=row.pk, batch=batch).update(batch=uuid4())


def _refuse(row: OutboxMessage, reason: str) -> None:
    row.state, row.error = State.REFUSED, reason
    logger.error("Switchboard refused message %s of the outbox: %s", row.pk, reason)


def _write(rows: list[OutboxMessage], database: str) -> None:
    """All at once: a batch that is sent again must have the same messages."""
    for row in rows:
        row.finished_at = timezone.now()
    OutboxMessage.objects.using(database).bulk_update(rows, ["state", "message_id", "error", "finished_at"])


def hand_over_waiting(switchboard: Client, database: str = DEFAULT_DB_ALIAS) -> None:
    """Hand over all waiting messages. Raises as `hand_over_oldest`."""
    while hand_over_oldest(switchboard, database):
        pass


def retry_refused(database: str = DEFAULT_DB_ALIAS) -> int:
    """Let refused messages wait again, for a new batch, and count them."""
    refused = OutboxMessage.objects.using(database).filter(state=State.REFUSED)
    return refused.update(state=State.WAITING, batch=None, error="", finished_at=None)


def delete_handed_over(older_than: timedelta, database: str = DEFAULT_DB_ALIAS) -> int:
    """Delete messages that were handed over so long ago, and return how many. Refused ones stay."""
    finished = OutboxMessage.objects.using(database).filter(state=State.HANDED_OVER)
    count, _ = finished.filter(finished_at__lt=timezone.now() - older_than).delete()
    return count


def client(*, attempts: int, timeout: float) -> Client:
    given = settings.SWITCHBOARD  # type: ignore[misc]  # Django's checks say if it is missing
    return Client(given["url"], given["token"], attempts=attempts, timeout=timeout)
