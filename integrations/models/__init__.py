"""The stored data. QuerySets are the vocabulary; only this package changes a status and holds SQL written by hand."""

from integrations.errors import Conflict
from integrations.models.account import Account, Role, SetupLink, Token
from integrations.models.attempt import Attempt, Result, Trigger
from integrations.models.backup_schedule import BackupSchedule
from integrations.models.certificate import Certificate
from integrations.models.clock import database_now
from integrations.models.event import MESSAGES_CHANGED, AuditEntry, Event, Feed
from integrations.models.failure import Failure, FailureHour, FailureState
from integrations.models.field_value import FieldValue
from integrations.models.health import Health
from integrations.models.idempotency import IdempotentAnswer
from integrations.models.installation import Installation
from integrations.models.message import (
    FINISHED,
    MESSAGES_ENDED,
    UNFINISHED,
    Draft,
    Message,
    MessageContent,
    Priority,
    Status,
)
from integrations.models.meter import Meter
from integrations.models.operation import Item, Operation
from integrations.models.retention import Retention
from integrations.models.runtime import Runtime
from integrations.models.saved_view import SavedView
from integrations.models.service import AUTH_SECRETS, Endpoint, Ordering, Service, ServiceStatus, Source
from integrations.models.tally import Tally, TallyDay, TallyHour
from integrations.models.web_server import WebServer
from integrations.models.worker import Worker

__all__ = [
    "AUTH_SECRETS",
    "FINISHED",
    "MESSAGES_CHANGED",
    "MESSAGES_ENDED",
    "UNFINISHED",
    "Account",
    "Attempt",
    "AuditEntry",
    "BackupSchedule",
    "Certificate",
    "Conflict",
    "Draft",
    "Endpoint",
    "Event",
    "Failure",
    "FailureHour",
    "FailureState",
    "Feed",
    "FieldValue",
    "Health",
    "IdempotentAnswer",
    "Installation",
    "Item",
    "Message",
    "MessageContent",
    "Meter",
    "Operation",
    "Ordering",
    "Priority",
    "Result",
    "Retention",
    "Role",
    "Runtime",
    "SavedView",
    "Service",
    "ServiceStatus",
    "SetupLink",
    "Source",
    "Status",
    "Tally",
    "TallyDay",
    "TallyHour",
    "Token",
    "Trigger",
    "WebServer",
    "Worker",
    "database_now",
]
