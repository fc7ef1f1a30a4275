"""A client for Switchboard: queue messages, call services now, find and replay messages, verify signatures.

The fields are those of the API, whose pages are at ``/api/v1/docs`` of each installation.
"""

from switchboard_client.client import Client
from switchboard_client.errors import Refused, SwitchboardError, Unavailable
from switchboard_client.responses import Attempt, BatchResult, Message, ProcessResult
from switchboard_client.signatures import InvalidSignature, verify

__all__ = [
    "Attempt",
    "BatchResult",
    "Client",
    "InvalidSignature",
    "Message",
    "ProcessResult",
    "Refused",
    "SwitchboardError",
    "Unavailable",
    "verify",
]
