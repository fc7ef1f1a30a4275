"""Read and write services as a file. A file is applied as a whole or not at all; an exported file changes nothing.

The file is YAML, so also JSON: ``services`` is a list of registrations as the API takes them, each with its
``endpoints``. An omitted field has its default. The file contains no secret: write ``{env: NAME}`` to read it from the
environment, ``{file: PATH}`` to read it from a file, or ``{set: true}`` to keep the stored one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import yaml
from django.db import transaction
from pydantic import Field, ValidationError

from integrations import errors
from integrations.errors import Conflict
from integrations.models import AUTH_SECRETS, Endpoint, Service, Source
from integrations.outbound.redaction import redacted_headers, redacted_url
from integrations.registration import deletion, endpoints, registry
from integrations.schemas.fields import StrictModel, rule_text
from integrations.schemas.service import EndpointIn, ServiceIn

SECRET_FILE_LIMIT = 64 * 1024  # bytes
NODE_LIMIT = 1_000_000  # values, aliases counted each time: a small file can expand to billions
STORED = {"set": True}  # stands for a stored secret and keeps it
SECRET_NAMES = frozenset(name for names in AUTH_SECRETS.values() for name in names)
SERVICE_DEFAULTS = ServiceIn.model_construct(name="").model_dump(mode="json", exclude_none=True)
ENDPOINT_DEFAULTS = EndpointIn.model_construct(name="").model_dump(mode="json")

Location = tuple[str | int, ...]
Problems = list[tuple[Location, str]]


class ServiceInFile(ServiceIn):
    endpoints: list[EndpointIn] = Field(default_factory=list, max_length=500, description="Endpoints of the service.")


class ServicesFile(StrictModel):
    services: list[ServiceInFile] = Field(max_length=10_000)


class InvalidFile(Exception):
    """The file cannot be applied; nothing was changed. ``problems``: one text each, with its line and path."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """The change of one service, planned in a dry run or made."""

    verb: Literal["registered", "changed", "deleted", "kept", "unchanged"]
    name: str
    details: tuple[str, ...] = ()


# ---- apply --------------------------------------------------------------------------------------------------------
def apply(
    text: str,
    environ: Mapping[str, str],
    *,
    actor: str,
    folder: Path = Path(),
    prune: bool = False,
    dry_run: bool = False,
) -> list[PlannedChange]:
    """Apply a file to the registrations. Return the changes; with ``dry_run``, only plan them.

    ``prune`` also deletes endpoints that the file does not name, and services that are missing from it, if a file
    registered them and they have no unfinished messages. A relative ``{file: PATH}`` is below ``folder``. Raises
    InvalidFile with all problems of the file.
    """
    root, raw = _parsed(text)
    raw = _unshared(raw)
    problems: Problems = []
    with transaction.atomic():
        # Lock in one order, so that two files applied at once cannot deadlock. And lock before {set: true} reads the
        # stored values: another request may be changing them.
        named = [str(service["name"]) for service in _items(raw, "services") if _has_name(service)]
        locked = Service.objects.select_for_update(no_key=True).filter(name__in=named).order_by("name")
        present = {service.name: service for service in locked}
        wanted = _validated(_resolved(raw, environ, folder, problems), problems)
        if problems:
            raise _invalid(root, problems)
        names = {service.name for service in wanted}
        changes = []
        for number, service in enumerate(wanted):
            try:
                changes.append(_apply_service(present.get(service.name), service, prune=prune, actor=actor))
            except errors.Invalid as refusal:
                problems += [(("services", number, *location), text) for location, text in refusal.errors]
        if problems:
            raise _invalid(root, problems)
        if prune:
            changes += _prune(names, actor=actor, dry_run=dry_run)
        transaction.set_rollback(dry_run)
    return changes


def _apply_service(service: Service | None, wanted: ServiceInFile, *, prune: bool, actor: str) -> PlannedChange:
    if service is None:
        with transaction.atomic():
            service = registry.register(wanted, actor=actor, source=Source.FILE, may_allow_private=True)
            _apply_endpoints(service, wanted, prune=prune, actor=actor)
        return PlannedChange("registered", service.name, tuple(_lines(_document(service))))
    before = registry.configuration(service)
    with transaction.atomic():
        registry.change(
            service,
            wanted,
            _fields_to_change(service, wanted),
            actor=actor,
            may_allow_private=True,
            is_from_file=True,
        )
        after = registry.configuration(service)
        # Roll back if nothing changed, so that no audit entry or event is left.
        transaction.set_rollback(after == before)
    details = [
        *_differences(before, after, service.secret_values),
        *_apply_endpoints(service, wanted, prune=prune, actor=actor),
    ]
    return PlannedChange("changed" if details else "unchanged", service.name, tuple(details))


def _fields_to_change(service: Service, wanted: ServiceInFile) -> set[str]:
    """Return the fields to change: all, since an omitted field has its default.

    Without ``auth`` if the file repeats the stored settings without a secret that is not set: they were exported so.
    """
    fields = set(ServiceIn.model_fields)
    names = AUTH_SECRETS[wanted.auth.type]
    lacks_one = any(service.secret(f"auth.{name}") is None for name in names)
    brings_one = any(getattr(wanted.auth, name) for name in names)
    plain = wanted.auth.model_dump(exclude_none=True, exclude=set(SECRET_NAMES))
    return fields - {"auth"} if lacks_one and not brings_one and plain == service.auth else fields


def _apply_endpoints(service: Service, wanted: ServiceInFile, *, prune: bool, actor: str) -> list[str]:
    details: list[str] = []
    present = {endpoint.name: endpoint for endpoint in service.endpoints.all()}
    for data in wanted.endpoints:
        endpoint = present.pop(data.name, None)
        before = endpoints.configuration(endpoint) if endpoint else {}
        if before == data.model_dump():
            continue
        saved = endpoints.save(service, data, actor=actor, endpoint=endpoint)
        changed = _differences(before, endpoints.configuration(saved), service.secret_values)
        details += [f"endpoint {data.name}: {line}" for line in changed] if before else [f"endpoint {data.name}: added"]
    for name, endpoint in present.items():
        if prune:
            endpoints.delete(endpoint, actor=actor)
            details.append(f"endpoint {name}: deleted")
    return details


def _prune(names: set[str], *, actor: str, dry_run: bool) -> list[PlannedChange]:
    changes = []
    for service in Service.objects.filter(source=Source.FILE).exclude(name__in=names):
        details: tuple[str, ...] = ()
        try:
            if dry_run:  # deletion.delete() would delete all history, only to roll it back
                if deletion.unfinished_count(service):
                    raise Conflict
            else:
                operation = deletion.delete(service, force=False, actor=actor)
                details = (f"the workers delete its history, {operation.public_id}",) if operation else ()
        except Conflict:
            reason = "it is missing from the file but has unfinished messages; prune again when they are finished"
            changes.append(PlannedChange("kept", service.name, (reason,)))
        else:
            changes.append(PlannedChange("deleted", service.name, details))
    return changes


# ---- from text to services ----------------------------------------------------------------------------------------
def _parsed(text: str) -> tuple[yaml.Node, Any]:
    """Return the node tree, for line numbers, and the plain value."""
    try:
        loader = yaml.SafeLoader(text)
        if (root := loader.get_single_node()) is None:
            raise InvalidFile("the file is empty; start it with services:")
        _check_tree(root, {}, ())
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidFile(f"line {mark.line + 1 if mark else 1}: invalid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character, an impossible number or date
        raise InvalidFile(f"invalid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidFile("the file is too deeply nested") from None


def _check_tree(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Count the values of a node with aliases expanded. Raises InvalidFile for a duplicate key or a recursive alias."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise InvalidFile(f"line {line}: this alias contains itself")
    if id(node) not in sizes:
        above = (*above, id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise InvalidFile(f"line {key.start_mark.line + 1}: {key.value} appears twice")
                seen.add(str(key.value))
                children.append(value)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_check_tree(child, sizes, above) for child in children)
    if sizes[id(node)] > NODE_LIMIT:
        raise InvalidFile(f"line {line}: expands to more than {NODE_LIMIT:,} values")
    return sizes[id(node)]


def _unshared(value: Any) -> Any:
    """Copy the value so that aliases share no object."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _resolved(raw: Any, environ: Mapping[str, str], folder: Path, problems: Problems) -> Any:
    """Replace references to secrets, ``{env: …}``, ``{file: …}`` and ``{set: true}``, by their values."""
    for location, holder in _holders(raw):
        is_auth = location[-1] == "auth"
        for name, value in list(holder.items()):
            if is_auth and name not in SECRET_NAMES:
                continue
            if isinstance(value, dict) and set(value) == {"env"}:
                if not (found := environ.get(str(value["env"]), "")):
                    problems.append(((*location, name), f"{value['env']} is not set in the environment"))
                holder[name] = found
            elif isinstance(value, dict) and set(value) == {"file"}:
                try:
                    holder[name] = _secret_in(folder / str(value["file"]))
                except ValueError as error:
                    problems.append(((*location, name), str(error)))
                    holder[name] = ""
            elif isinstance(value, dict) and set(value) == {"set"}:
                holder[name] = None if is_auth else _stored_value(raw, location, name)
                if holder[name] is None and not is_auth:
                    problems.append(((*location, name), "no value is stored yet; write {env: NAME} or {file: PATH}"))
                    holder[name] = ""
            elif is_auth and value is not None:
                text = (
                    "the file must not contain secrets: write {env: NAME}, {file: PATH}, or {set: true} to keep the "
                    "stored one"
                )
                problems.append(((*location, name), text))
                holder[name] = None
    return raw


def _secret_in(path: Path) -> str:
    """Return the text of a file without the line break at its end. Raises ValueError with a reason for the operator."""
    try:
        with path.open("rb") as file:
            raw = file.read(SECRET_FILE_LIMIT + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "the path holds a NUL character"
        raise ValueError(f"{path} cannot be read: {reason}") from None
    if len(raw) > SECRET_FILE_LIMIT:
        raise ValueError(f"{path} has more than {SECRET_FILE_LIMIT:,} bytes")
    try:
        text = raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def _holders(raw: Any) -> Iterator[tuple[Location, dict[Any, Any]]]:
    """Yield the objects that may contain references, with their locations."""
    for number, service in enumerate(_items(raw, "services")):
        of_service: list[tuple[Location, Any]] = [((), service)]
        of_service += [(("endpoints", index), endpoint) for index, endpoint in enumerate(_items(service, "endpoints"))]
        for location, document in of_service:
            for name in ("auth", "headers", "query"):
                if isinstance(document, dict) and isinstance(document.get(name), dict):
                    yield ("services", number, *location, name), document[name]


def _has_name(service: Any) -> bool:
    return isinstance(service, dict) and isinstance(service.get("name"), str) and "\0" not in service["name"]


def _items(document: Any, name: str) -> list[Any]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, list) else []


def _stored_value(raw: Any, location: Location, name: str) -> Any:
    """Return the stored value of a header or query parameter, or None."""
    service = raw["services"][location[1]]
    stored: Service | Endpoint | None
    service_name = str(service.get("name"))
    if location[2] == "endpoints":
        endpoint = str(service["endpoints"][location[3]].get("name"))
        stored = Endpoint.objects.filter(service__name=service_name, name=endpoint).first()
    else:
        stored = Service.objects.filter(name=service_name).first()
    return getattr(stored, str(location[-1]), {}).get(name)


def _validated(raw: Any, problems: Problems) -> list[ServiceInFile]:
    """Check the services by the rules of the API and the forms."""
    try:
        wanted = ServicesFile.model_validate(raw).services
    except ValidationError as error:
        problems += [(row["loc"], rule_text(row)) for row in error.errors(include_url=False)]
        return []
    for number, service in enumerate(wanted):
        if service.name in (other.name for other in wanted[:number]):
            problems.append((("services", number, "name"), "another service in this file has this name"))
        names = [endpoint.name for endpoint in service.endpoints]
        problems += [
            (("services", number, "endpoints", index, "name"), "another endpoint of this service has this name")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
    return wanted


def _invalid(root: yaml.Node, problems: Problems) -> InvalidFile:
    located = sorted((*_line_and_path(root, location), text) for location, text in problems)
    return InvalidFile(
        *(f"line {line}: {path}: {text}" if path else f"line {line}: {text}" for line, path, text in located)
    )


def _line_and_path(node: yaml.Node, location: Location) -> tuple[int, str]:
    """Return the line of a location, and its path with names for numbers: ``billing.retry.max_attempts``."""
    line, path = node.start_mark.line + 1, ""
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, shown = node.start_mark.line + 1, _name_of(node) or f"{part + 1}"
        elif isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
            shown = str(part)
            if found is None:  # a required field that is missing
                return line, f"{path}.{shown}".lstrip(".")
            line, node = found[0].start_mark.line + 1, found[1]
        else:
            break
        path = shown if path in ("", "services") else f"{path}.{shown}"
    return line, path


def _name_of(node: yaml.Node) -> str:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "name"), "")


# ---- export -------------------------------------------------------------------------------------------------------
def export(names: list[str] | None = None) -> str:
    """Write the services, or all, as a file without secrets. Raises InvalidFile for an unknown name."""
    services = Service.objects.prefetch_related("endpoints").order_by("name")
    found = [service for service in services if not names or service.name in names]
    if unknown := sorted(set(names or ()) - {service.name for service in found}):
        raise InvalidFile(*(f"no service is named {name}" for name in unknown))
    documents = [_document(service) for service in found]
    return yaml.dump({"services": documents}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _document(service: Service) -> dict[str, Any]:
    """Return a service as the file has it: the settings that differ from the defaults."""
    shown = _shown(registry.configuration(service), service.secret_values)
    shown["signing"].pop("public_key")
    for name in registry.NETWORK_FACTS:
        shown["network"].pop(name)
    if service.url_env:
        shown.pop("base_url")
    documents = [
        _without(_shown(endpoints.configuration(endpoint), service.secret_values), ENDPOINT_DEFAULTS)
        for endpoint in service.endpoints.all()
    ]
    return _without(shown, SERVICE_DEFAULTS) | ({"endpoints": documents} if documents else {})


def _without(document: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Leave out values equal to their defaults; in policies, field by field."""
    remaining: dict[str, Any] = {}
    for name, value in document.items():
        default = defaults.get(name)
        if name in registry.POLICY_FIELDS and isinstance(default, dict):
            value = {inner: part for inner, part in value.items() if part != default.get(inner)}
            default = {}
        if value != default:
            remaining[name] = value
    return remaining


def _shown(readable: dict[str, Any], secrets: list[str]) -> dict[str, Any]:
    """Replace secrets by marks, also secrets that were written into a plain header or query parameter."""
    shown = dict(readable)
    if "auth" in shown:
        shown["auth"] = {
            name: {"set": value["set"]} if name in SECRET_NAMES else value for name, value in shown["auth"].items()
        }
    shown["headers"] = {
        name: value if redacted_headers([(name, value)], secrets) == [[name, value]] else STORED
        for name, value in shown["headers"].items()
    }
    if "query" in shown:
        shown["query"] = {
            name: value if _is_plain(f"?{urlencode({name: value}, doseq=True)}", secrets) else STORED
            for name, value in shown["query"].items()
        }
    return shown


def _is_plain(query: str, secrets: list[str]) -> bool:
    return redacted_url(query, secrets) == query


class _Dumper(yaml.SafeDumper):
    """YAML for people to read: no aliases, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _object(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.Node:
    node = dumper.represent_dict(value)
    node.flow_style = value.keys() == STORED.keys()
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _object)


# ---- as text ------------------------------------------------------------------------------------------------------
def _differences(before: dict[str, Any], after: dict[str, Any], secrets: list[str]) -> list[str]:
    """List the changed settings, such as ``retry.max_attempts: 10 → 5``. A secret shows no value."""
    if not before or before == after:
        return []
    was, is_now = _flat(before), _flat(after)
    was_shown, shown = _flat(_shown(before, secrets)), _flat(_shown(after, secrets))
    lines = []
    for path in [*was, *(path for path in is_now if path not in was)]:
        if was.get(path) == is_now.get(path):
            continue
        if was_shown.get(path) == shown.get(path):
            lines.append(f"{path}: value changed")
        else:
            lines.append(f"{path}: {_text_of(was_shown.get(path))} → {_text_of(shown.get(path))}")
    return lines


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """List the settings of a new service."""
    for name, value in document.items():
        if name == "endpoints":
            yield from (f"endpoint {endpoint['name']}: added" for endpoint in value)
        elif name != "name":
            yield from (f"{path}: {_text_of(part)}" for path, part in _flat({name: value}).items())


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and not isinstance(value.get("set"), bool):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _text_of(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    if isinstance(value, dict):
        return "a secret" if value.get("set") else "no secret"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 and text.isprintable() else f"{text[:80].encode('unicode_escape').decode()}…"
