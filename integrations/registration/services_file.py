"""Services as a file: what stands in it is applied as a whole or not at all; what is exported applies as no change.

The file is YAML (so JSON too): ``services`` is a list of what the API takes, each with its ``endpoints``. A field that
is left out has its default. A secret is ``{env: NAME}``, read from the environment, or ``{set: true}``, which leaves
it as it is; it never stands in the file itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

NODE_LIMIT = 1_000_000  # values in a file, aliases counted each time: a small file of aliases can mean billions
KEPT = {"set": True}  # stands for a secret that is set, and leaves it as it is
SECRET_NAMES = frozenset(name for names in AUTH_SECRETS.values() for name in names)
SERVICE_DEFAULTS = ServiceIn.model_construct(name="").model_dump(mode="json", exclude_none=True)
ENDPOINT_DEFAULTS = EndpointIn.model_construct(name="").model_dump(mode="json")

Location = tuple[str | int, ...]
Complaints = list[tuple[Location, str]]


class ServiceInFile(ServiceIn):
    endpoints: list[EndpointIn] = Field(default_factory=list, max_length=500, description="Its named operations.")


class ServicesFile(StrictModel):
    services: list[ServiceInFile] = Field(max_length=10_000)


class InvalidFile(Exception):
    """The file cannot be applied, and nothing was changed. ``faults``: one line for each, with its place."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What became of one service."""

    verb: Literal["registered", "changed", "deleted", "kept", "unchanged"]
    name: str
    details: tuple[str, ...] = ()


# ---- apply --------------------------------------------------------------------------------------------------------
def apply(
    text: str, environ: Mapping[str, str], *, actor: str, prune: bool = False, dry_run: bool = False
) -> list[PlannedChange]:
    """Brings the registrations in line with a file; answers what that changed, or would with ``dry_run``.

    Only with ``prune`` is anything deleted: endpoints that the file does not name, and services that a file had
    registered and that have no unfinished messages. Raises InvalidFile with every fault there is.
    """
    root, raw = _parsed(text)
    complaints: Complaints = []
    wanted = _judged(_resolved(_unshared(raw), environ, complaints), complaints)
    if complaints:
        raise _broken(root, complaints)
    names = {service.name for service in wanted}
    with transaction.atomic():
        # In one order, so that two files at once cannot wait for each other.
        present = {
            one.name: one
            for one in Service.objects.select_for_update(no_key=True).filter(name__in=names).order_by("name")
        }
        changes = []
        for number, service in enumerate(wanted):
            try:
                changes.append(_bring_in_line(present.get(service.name), service, prune=prune, actor=actor))
            except errors.Invalid as refusal:
                complaints += [(("services", number, *place), words) for place, words in refusal.errors]
        if complaints:
            raise _broken(root, complaints)
        if prune:
            changes += _prune(names, actor=actor, dry_run=dry_run)
        transaction.set_rollback(dry_run)
    return changes


def _bring_in_line(service: Service | None, wanted: ServiceInFile, *, prune: bool, actor: str) -> PlannedChange:
    if service is None:
        with transaction.atomic():
            service = registry.register(wanted, actor=actor, source=Source.FILE, may_allow_private=True)
            _bring_endpoints_in_line(service, wanted, prune=prune, actor=actor)
        return PlannedChange("registered", service.name, tuple(_lines(_document(service))))
    before = registry.configuration(service)
    with transaction.atomic():
        registry.change(service, wanted, _given(service, wanted), actor=actor, may_allow_private=True)
        after = registry.configuration(service)
        # Taken back where it comes to the same, so that it leaves no trace at all.
        transaction.set_rollback(after == before)
    details = [
        *_differences(before, after, service.secret_values),
        *_bring_endpoints_in_line(service, wanted, prune=prune, actor=actor),
    ]
    return PlannedChange("changed" if details else "unchanged", service.name, tuple(details))


def _given(service: Service, wanted: ServiceInFile) -> set[str]:
    """Every field, for what is left out has its default. Authentication that is to stay as it is may lack a secret:
    that is how it was exported."""
    given = set(ServiceIn.model_fields)
    names = AUTH_SECRETS[wanted.auth.type]
    lacks_one = any(service.secret(f"auth.{name}") is None for name in names)
    brings_one = any(getattr(wanted.auth, name) for name in names)
    plain = wanted.auth.model_dump(exclude_none=True, exclude=set(SECRET_NAMES))
    return given - {"auth"} if lacks_one and not brings_one and plain == service.auth else given


def _bring_endpoints_in_line(service: Service, wanted: ServiceInFile, *, prune: bool, actor: str) -> list[str]:
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
        try:
            if dry_run:  # the real thing would delete all history, only to put it back
                if deletion.unfinished_count(service):
                    raise Conflict
            else:
                deletion.delete(service, force=False, actor=actor)
        except Conflict:
            words = "it is not in the file, but has unfinished messages; prune again when they are finished"
            changes.append(PlannedChange("kept", service.name, (words,)))
        else:
            changes.append(PlannedChange("deleted", service.name))
    return changes


# ---- from text to services ----------------------------------------------------------------------------------------
def _parsed(text: str) -> tuple[yaml.Node, Any]:
    """The tree, for places, and the plain value."""
    try:
        loader = yaml.SafeLoader(text)
        if (root := loader.get_single_node()) is None:
            raise InvalidFile("the file is empty; it begins with services:")
        _check_tree(root, {}, ())
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InvalidFile(f"line {mark.line + 1 if mark else 1}: this is not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a number or date that does not exist
        raise InvalidFile(f"this is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidFile("the file is nested too deeply") from None


def _check_tree(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node means. Raises InvalidFile where a key stands twice or an alias contains itself."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise InvalidFile(f"line {line}: this contains itself")
    if id(node) not in sizes:
        above = (*above, id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise InvalidFile(f"line {key.start_mark.line + 1}: {key.value} stands here twice")
                seen.add(str(key.value))
                children.append(value)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_check_tree(child, sizes, above) for child in children)
    if sizes[id(node)] > NODE_LIMIT:
        raise InvalidFile(f"line {line}: this comes to more than {NODE_LIMIT:,} values")
    return sizes[id(node)]


def _unshared(value: Any) -> Any:
    """A copy in which aliases share nothing."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _resolved(raw: Any, environ: Mapping[str, str], complaints: Complaints) -> Any:
    """With what the references stand for in their place."""
    for place, holder in _holders(raw):
        is_auth = place[-1] == "auth"
        for name, value in list(holder.items()):
            if is_auth and name not in SECRET_NAMES:
                continue
            if isinstance(value, dict) and set(value) == {"env"}:
                if not (found := environ.get(str(value["env"]), "")):
                    complaints.append(((*place, name), f"{value['env']} is not set in the environment"))
                holder[name] = found
            elif isinstance(value, dict) and set(value) == {"set"}:
                holder[name] = None if is_auth else _kept(raw, place, name)
                if holder[name] is None and not is_auth:
                    complaints.append(((*place, name), "there is nothing yet to leave as it is; write {env: NAME}"))
                    holder[name] = ""
            elif is_auth and value is not None:
                words = "a secret does not stand in the file: write {env: NAME}, or {set: true} to leave it as it is"
                complaints.append(((*place, name), words))
                holder[name] = None
    return raw


def _holders(raw: Any) -> Iterator[tuple[Location, dict[Any, Any]]]:
    """The objects in which a reference may stand, with their places."""
    for number, service in enumerate(_items(raw, "services")):
        of_service: list[tuple[Location, Any]] = [((), service)]
        of_service += [(("endpoints", index), endpoint) for index, endpoint in enumerate(_items(service, "endpoints"))]
        for place, thing in of_service:
            for name in ("auth", "headers", "query"):
                if isinstance(thing, dict) and isinstance(thing.get(name), dict):
                    yield ("services", number, *place, name), thing[name]


def _items(thing: Any, name: str) -> list[Any]:
    found = thing.get(name) if isinstance(thing, dict) else None
    return found if isinstance(found, list) else []


def _kept(raw: Any, place: Location, name: str) -> Any:
    """What is stored for a header or a parameter that is to stay as it is."""
    service = raw["services"][place[1]]
    stored: Service | Endpoint | None
    service_name = str(service.get("name"))
    if place[2] == "endpoints":
        endpoint = str(service["endpoints"][place[3]].get("name"))
        stored = Endpoint.objects.filter(service__name=service_name, name=endpoint).first()
    else:
        stored = Service.objects.filter(name=service_name).first()
    return getattr(stored, str(place[-1]), {}).get(name)


def _judged(raw: Any, complaints: Complaints) -> list[ServiceInFile]:
    """The services, held against the rules that API and forms have."""
    try:
        wanted = ServicesFile.model_validate(raw).services
    except ValidationError as error:
        complaints += [(row["loc"], rule_text(row)) for row in error.errors(include_url=False)]
        return []
    for number, service in enumerate(wanted):
        if service.name in (other.name for other in wanted[:number]):
            complaints.append((("services", number, "name"), "another service of this file has this name"))
        names = [endpoint.name for endpoint in service.endpoints]
        complaints += [
            (("services", number, "endpoints", index, "name"), "another endpoint of this service has this name")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
    return wanted


def _broken(root: yaml.Node, complaints: Complaints) -> InvalidFile:
    placed = sorted((*_place(root, location), words) for location, words in complaints)
    return InvalidFile(
        *(f"line {line}: {path}: {words}" if path else f"line {line}: {words}" for line, path, words in placed)
    )


def _place(node: yaml.Node, location: Location) -> tuple[int, str]:
    """The line of a place, and its path with names for numbers: ``billing.retry.max_attempts``."""
    line, path = node.start_mark.line + 1, ""
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, shown = node.start_mark.line + 1, _name_of(node) or f"{part + 1}"
        elif isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
            shown = str(part)
            if found is None:  # what is needed, and missing
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
        raise InvalidFile(*(f"there is no service named {name}" for name in unknown))
    documents = [_document(service) for service in found]
    return yaml.dump({"services": documents}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _document(service: Service) -> dict[str, Any]:
    """A service as it stands in the file: what differs from the defaults."""
    shown = _shown(registry.configuration(service), service.secret_values)
    shown["signing"].pop("public_key")
    if service.url_env:
        shown.pop("base_url")
    documents = [
        _without(_shown(endpoints.configuration(endpoint), service.secret_values), ENDPOINT_DEFAULTS)
        for endpoint in service.endpoints.all()
    ]
    return _without(shown, SERVICE_DEFAULTS) | ({"endpoints": documents} if documents else {})


def _without(document: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, in policies field by field."""
    kept: dict[str, Any] = {}
    for name, value in document.items():
        default = defaults.get(name)
        if name in registry.POLICY_FIELDS and isinstance(default, dict):
            value = {inner: part for inner, part in value.items() if part != default.get(inner)}
            default = {}
        if value != default:
            kept[name] = value
    return kept


def _shown(readable: dict[str, Any], secrets: list[str]) -> dict[str, Any]:
    """With marks for secrets, also for those that somebody wrote into a plain header or parameter."""
    shown = dict(readable)
    if "auth" in shown:
        shown["auth"] = {
            name: {"set": value["set"]} if name in SECRET_NAMES else value for name, value in shown["auth"].items()
        }
    shown["headers"] = {
        name: value if redacted_headers([(name, value)], secrets) == [[name, value]] else KEPT
        for name, value in shown["headers"].items()
    }
    if "query" in shown:
        shown["query"] = {
            name: value if _is_plain(f"?{urlencode({name: value}, doseq=True)}", secrets) else KEPT
            for name, value in shown["query"].items()
        }
    return shown


def _is_plain(query: str, secrets: list[str]) -> bool:
    return redacted_url(query, secrets) == query


class _Dumper(yaml.SafeDumper):
    """Without aliases, which a reader would have to look up, and with text of several lines as it reads."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _object(dumper: yaml.SafeDumper, value: dict[str, Any]) -> yaml.Node:
    node = dumper.represent_dict(value)
    node.flow_style = value.keys() == KEPT.keys()
    return node


_Dumper.add_representer(str, _text)
_Dumper.add_representer(dict, _object)


# ---- in words -----------------------------------------------------------------------------------------------------
def _differences(before: dict[str, Any], after: dict[str, Any], secrets: list[str]) -> list[str]:
    """One line for each setting that changed: ``retry.max_attempts: 10 → 5``. Secrets show only that they did."""
    if not before or before == after:
        return []
    was, is_now = _flat(before), _flat(after)
    was_shown, shown = _flat(_shown(before, secrets)), _flat(_shown(after, secrets))
    lines = []
    for path in [*was, *(path for path in is_now if path not in was)]:
        if was.get(path) == is_now.get(path):
            continue
        if was_shown.get(path) == shown.get(path):
            lines.append(f"{path}: another value")
        else:
            lines.append(f"{path}: {_words(was_shown.get(path))} → {_words(shown.get(path))}")
    return lines


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """One line for each setting of a new service."""
    for name, value in document.items():
        if name == "endpoints":
            yield from (f"endpoint {endpoint['name']}: added" for endpoint in value)
        elif name != "name":
            yield from (f"{path}: {_words(part)}" for path, part in _flat({name: value}).items())


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and not isinstance(value.get("set"), bool):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _words(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    if isinstance(value, dict):
        return "a secret" if value.get("set") else "no secret"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    words = str(value).lower() if isinstance(value, bool) else str(value)
    return words if len(words) <= 80 and words.isprintable() else f"{words[:80].encode('unicode_escape').decode()}…"
