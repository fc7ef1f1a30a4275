"""An outbox for Django projects: a message is stored in your transaction and handed over after its commit.

Add ``switchboard_client.django`` to ``INSTALLED_APPS``, set ``SWITCHBOARD = {"url": …, "token": …}``, run ``migrate``,
and keep ``manage.py switchboard_outbox`` running. Then::

    from switchboard_client.django import send

    with transaction.atomic():
        order.save()
        send("billing", path="/orders", body={"order": order.pk})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from switchboard_client.client import MessageFields

if TYPE_CHECKING:  # models may be imported only once Django has loaded the apps
    from switchboard_client.django.models import OutboxMessage


def send(service: str, *, using: str | None = None, **fields: Unpack[MessageFields]) -> OutboxMessage:
    """Store a message in the present transaction; after the commit it is handed over. The fields are `Client.send`'s.

    ``using``: the database of your transaction, if it is not the default one. A rollback takes the message back.
    """
    from switchboard_client.django.outbox import store

    return store(service, using=using, **fields)
