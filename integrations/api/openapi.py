"""Complete ninja's OpenAPI document with roles, error responses, examples, headers and links.

Roles come from each operation's authentication, fields and helps from `schemas/`, problems from `problems.py`.
`manage.py openapi` prints the document, and `docs/openapi.json` holds it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from integrations.api.auth import Bearer
from integrations.api.parameters import READS
from integrations.api.problems import KINDS, MEDIA_TYPE
from integrations.api.responses import ProblemOut
from integrations.schemas.actions import FailureIn, RetentionIn
from integrations.schemas.service import EndpointIn, ServiceIn

REFERENCE = "#/components/schemas/{model}"
ALWAYS = (400, 401, 403, 413, 429, 503)  # from authentication, limits and an unavailable database

# Operations that can return 409.
CONFLICTS = frozenset(
    {
        "change_service",
        "delete_service",
        "pause_service",
        "resume_service",
        "rotate_signing",
        "register_service",
        "register_endpoint",
        "change_endpoint",
        "change_failure",
        "delete_endpoint",
        "steer_breaker",
        "queue_message",
        "queue_batch",
        "replay_message",
        "cancel_message",
        "retry_message_now",
        "plan_operation",
        "change_operation",
        "pause_operation",
        "resume_operation",
        "cancel_operation",
        "issue_token",
        "revoke_token",
    }
)

# The body of a PATCH: all fields of the resource, each optional.
CHANGES: dict[str, tuple[str, type[BaseModel]]] = {
    "change_service": ("ServiceChange", ServiceIn),
    "change_endpoint": ("EndpointChange", EndpointIn),
    "change_failure": ("FailureChange", FailureIn),
    "change_retention": ("RetentionChange", RetentionIn),
}

HEADERS: dict[str, dict[str, Any]] = {
    "Location": {"description": "Path of the created resource.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true` if this is the stored response to an earlier request with this Idempotency-Key.",
        "schema": {"const": "true", "type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next request.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "WWW-Authenticate": {"description": "Required authentication scheme.", "schema": {"type": "string"}},
}
HEADERS_OF = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}

EXAMPLES: dict[str, Any] = {
    "register_service": {
        "name": "billing",
        "base_url": "https://billing.example.com/v2",
        "auth": {"type": "bearer", "token": "the-token"},
        "retry": {"max_attempts": 8},
    },
    "change_service": {"limits": {"rate": 20}, "owner": "the payments team"},
    "pause_service": {"reason": "Their maintenance, until noon", "until": "2030-01-31T12:00:00Z"},
    "resume_service": {"release": "all", "rate": 10},
    "rotate_signing": {"overlap": 86400},
    "register_endpoint": {"name": "invoices", "method": "POST", "path": "/invoices"},
    "change_endpoint": {"path": "/v3/invoices"},
    "change_failure": {"state": "ignored", "ignored_until": "2030-01-31T12:00:00Z", "note": "They know"},
    "steer_breaker": {"action": "open", "reason": "They asked us to stop", "until": "2030-01-31T12:00:00Z"},
    "queue_message": {"service": "billing", "path": "/orders", "body": {"order": 42}, "tags": {"customer": "c-7"}},
    "queue_batch": {"messages": [{"service": "billing", "path": "/orders", "body": {"order": 42}}]},
    "replay_message": {"mode": "as_is"},
    "plan_operation": {"kind": "replay", "filter": "service:billing status:dead", "reason": "They are back"},
    "change_operation": {"rate": 20},
    "process_now": {"service": "billing", "method": "GET", "path": "/invoices/42", "timeout": 10},
    "change_retention": {"messages_days": 30},
    "change_backups": {"every_hours": 6, "keep": 14},
    "issue_token": {"name": "billing-backend", "role": "operator", "expires_in": 7776000},
}

# Links from a response: (operation, its parameter, source of the value). Stateful tests follow them too.
SERVICE_LINKS = [
    (call, "name", "$response.body#/name")
    for call in ("get_service", "change_service", "pause_service", "resume_service", "get_breaker", "steer_breaker")
]
MESSAGE_LINKS = [
    (call, "message_id", "$response.body#/id")
    for call in ("get_message", "list_attempts", "replay_message", "cancel_message", "retry_message_now")
]
OPERATION_LINKS = [
    (call, "operation_id", "$response.body#/id")
    for call in (
        "get_operation",
        "list_operation_items",
        "change_operation",
        "pause_operation",
        "resume_operation",
        "cancel_operation",
    )
]
LINKS: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("register_service", "201"): [
        *SERVICE_LINKS,
        ("register_endpoint", "name", "$response.body#/name"),
        ("rotate_signing", "name", "$response.body#/name"),
        ("delete_service", "name", "$response.body#/name"),
    ],
    ("queue_message", "202"): MESSAGE_LINKS,
    ("queue_batch", "200"): [("get_message", "message_id", "$response.body#/accepted/0/id")],
    ("list_messages", "200"): [("get_message", "message_id", "$response.body#/items/0/id")],
    ("list_failures", "200"): [
        (call, "failure_id", "$response.body#/items/0/id") for call in ("get_failure", "change_failure")
    ],
    ("replay_message", "202"): MESSAGE_LINKS,
    ("plan_operation", "202"): OPERATION_LINKS,
    ("issue_token", "201"): [("revoke_token", "token_id", "$response.body#/id")],
}


def complete(schema: dict[str, Any], authentication: dict[str, Bearer]) -> None:
    """Complete ninja's document in place. ``authentication``: by operation id."""
    components = schema["components"]
    components["headers"] = deepcopy(HEADERS)
    components["responses"] = {f"Problem{status}": _problem(status) for status in KINDS}
    for name, model in CHANGES.values():
        components["schemas"][name] = _all_optional(name, model)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            _complete_operation(operation, authentication[operation["operationId"]], method, path)
    _drop_unused(schema)


def _complete_operation(operation: dict[str, Any], bearer: Bearer, method: str, path: str) -> None:
    name = operation["operationId"]
    operation["summary"] = name.replace("_", " ").capitalize()
    operation["description"] = f"{operation['description']}\n\nNeeds the {bearer.needed} role."
    if name in CHANGES:
        operation["requestBody"]["content"]["application/json"]["schema"] = {
            "$ref": REFERENCE.format(model=CHANGES[name][0])
        }
    if name in EXAMPLES:
        operation["requestBody"]["content"]["application/json"]["example"] = EXAMPLES[name]
    operation["responses"] = {str(status): response for status, response in operation["responses"].items()}
    for status, response in operation["responses"].items():
        _complete_response(response, method, status, takes_key=_takes_key(operation))
        for call, parameter, value in LINKS.get((name, status), ()):
            response.setdefault("links", {})[call] = {"operationId": call, "parameters": {parameter: value}}
    for refused in sorted(_refusals(operation, name, method, path)):
        operation["responses"][str(refused)] = {"$ref": f"#/components/responses/Problem{refused}"}


def _complete_response(response: dict[str, Any], method: str, status: str, *, takes_key: bool) -> None:
    headers = (["Location"] if status in ("201", "202") else []) + (["Idempotent-Replayed"] if takes_key else [])
    if headers:
        response["headers"] = {header: {"$ref": f"#/components/headers/{header}"} for header in headers}
    texts = {"201": "Created.", "202": "Accepted and stored.", "204": "Deleted."}
    if response["description"] in ("OK", "Created", "Accepted", "No Content"):
        response["description"] = texts.get(status, "The current state.")


def _drop_unused(schema: dict[str, Any]) -> None:
    """Drop components without a reference, such as a body for which `CHANGES` has another."""
    written = str(schema)
    for kind in ("schemas", "responses"):
        named = schema["components"][kind]
        schema["components"][kind] = {
            name: value for name, value in named.items() if f"'#/components/{kind}/{name}'" in written
        }


def _refusals(operation: dict[str, Any], name: str, method: str, path: str) -> set[int]:
    refusals = set(ALWAYS)
    if "{" in path or name == "follow_events":  # 404 if a message to follow does not exist
        refusals.add(404)
    if "requestBody" in operation:
        refusals |= {415, 422}
    reads = method.upper() in READS  # refuses unknown query parameters
    if reads or any(parameter["in"] != "path" for parameter in operation.get("parameters", ())):
        refusals.add(422)
    if name in CONFLICTS:
        refusals.add(409)
    return refusals


def _takes_key(operation: dict[str, Any]) -> bool:
    return any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))


def _problem(status: int) -> dict[str, Any]:
    _, title = KINDS[status]
    response: dict[str, Any] = {
        "description": f"{title}.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model=ProblemOut.__name__)}}},
    }
    if header := HEADERS_OF.get(status):
        response["headers"] = {header: {"$ref": f"#/components/headers/{header}"}}
    return response


def _all_optional(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's schema for a PATCH: no field is required or has a default, since omitted ones keep theirs."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    fields = {
        field: {key: value for key, value in rule.items() if key != "default"}
        for field, rule in schema["properties"].items()
    }
    return {
        "type": "object",
        "title": name,
        "description": "Omitted fields keep their values.",
        "properties": fields,
        "additionalProperties": False,
    }
