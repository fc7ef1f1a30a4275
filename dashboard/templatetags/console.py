"""Template tags and filters of every page: badges, times, numbers, icons, fields, panels."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from math import ceil
from typing import Any, cast

from django import template
from django.conf import settings
from django.forms import BoundField, CheckboxInput, Textarea
from django.forms.utils import flatatt
from django.template.context import Context
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from dashboard import live
from dashboard.presenters.durations import UNITS, duration_text, two_units
from dashboard.presenters.service_stats import count_waiting
from integrations.models import Service

register = template.Library()
register.filter("duration", duration_text)

NOTHING: SafeString = mark_safe('<span class="muted">–</span>')
STATUS_LABELS = {"half_open": "half-open", "forced_open": "forced open"}
ICONS = {
    name: format_html('<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{}</svg>', mark_safe(drawing))  # noqa: S308
    for name, drawing in re.findall(
        r'<symbol id="i-(\w+)"[^>]*>(.*)</symbol>', (settings.BASE_DIR / "templates/_partials/icons.svg").read_text()
    )
}


# ---- badges and icons ---------------------------------------------------------------------------------------------
@register.simple_tag
def status_badge(status: str) -> SafeString:
    """A status as a word with a shape, and a colour if it needs an operator."""
    return format_html('<span class="badge {}">{}</span>', status, STATUS_LABELS.get(status, status))


@register.simple_tag
def icon(name: str) -> SafeString:
    """A drawing of ``templates/_partials/icons.svg``, inline: a page carries only the icons that it shows.

    Raises KeyError for an unknown name.
    """
    return ICONS[name]


# ---- times --------------------------------------------------------------------------------------------------------
@register.filter
def ago(value: datetime | str | None) -> SafeString:
    """“3 min ago” or “in 12 s”, with the absolute time in the viewer's zone as title. console.js keeps it current."""
    moment = _moment(value)
    if moment is None:
        return NOTHING
    return format_html(
        '<time class="ago" datetime="{}" title="{}">{}</time>',
        moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        _absolute(moment),
        relative((moment - timezone.now()).total_seconds()),
    )


@register.filter
def countdown(value: datetime | str | None) -> SafeString:
    """“in 1 min 5 s”, then “due now”. console.js counts it down."""
    moment = _moment(value)
    if moment is None:
        return NOTHING
    left = ceil((moment - timezone.now()).total_seconds())
    return format_html(
        '<time data-countdown datetime="{}" title="{}">{}</time>',
        moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        _absolute(moment),
        f"in {two_units(left)}" if left > 0 else "due now",
    )


@register.filter
def at(value: datetime | str | None, precision: str = "second") -> SafeString:
    """The absolute time in the viewer's zone: the time for today, to the second or ``minute``, else with the date."""
    moment = _moment(value)
    if moment is None:
        return NOTHING
    local = timezone.localtime(moment)
    today = timezone.localtime()
    clock = "%H:%M" if precision == "minute" else "%H:%M:%S"
    form = clock if local.date() == today.date() else "%-d %b %H:%M" if local.year == today.year else "%-d %b %Y"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        _absolute(moment),
        local.strftime(form),
    )


def _moment(value: datetime | str | None) -> datetime | None:
    if isinstance(value, str):
        return datetime.fromisoformat(value) if value else None
    return value


def _absolute(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%-d %b %Y, %H:%M:%S %Z")


def relative(seconds: float) -> str:
    """“3 min ago” for -180, “in 12 s” for 12. console.js has the same function."""
    distance = abs(seconds)
    if distance < 2:
        return "now"
    size, unit = next(row for row in UNITS if distance >= row[0])
    amount = f"{int(distance // size)} {unit}"
    return f"in {amount}" if seconds > 0 else f"{amount} ago"


# ---- numbers ------------------------------------------------------------------------------------------------------
@register.filter
def short(number: float | None) -> SafeString:
    """“99,999”, then “124k” with the exact number as title."""
    if number is None:
        return NOTHING
    if abs(number) < 100_000:
        return format_html("{}", f"{int(number):,}")
    size, letter = next(row for row in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(number) >= row[0] * 0.9995)
    text = f"{number / size:.1f}" if abs(number) < 100 * size else f"{number / size:.0f}"
    return format_html('<span title="{}">{}{}</span>', f"{number:,.0f}", text.removesuffix(".0"), letter)


@register.filter
def per_second(rate: float) -> str:
    """“0.01 per second”, “33.3 per second”."""
    return f"{rate:,.0f} per second" if rate >= 100 else f"{rate:.3g} per second"


@register.filter
def times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


@register.filter
def capped(number: int | None, limit: int = 10_000) -> SafeString:
    """A count that stopped counting at ``limit``: “10,000+”."""
    if number is None:
        return NOTHING
    if number >= limit:
        return format_html('<span title="Counting stops at {}">{}+</span>', f"{limit:,}", f"{limit:,}")
    return short(number)


@register.filter
def percent(share: float | None) -> str:
    """A share between 0 and 1 as a percentage; 100 % and 0 % only for exact values."""
    if share is None:
        return "–"
    value = share * 100
    if 99.9 < value < 100:
        return "99.9\u202f%"
    if 0 < value < 0.1:
        return "0.1\u202f%"
    return f"{value:.1f}".removesuffix(".0") + "\u202f%"


@register.simple_tag
def affected_messages(service: Service) -> SafeString:
    """The number of messages that an action on a service affects. Counted once per page, up to a cap."""
    if not hasattr(service, "_waiting_now"):
        service._waiting_now = count_waiting(service)  # type: ignore[attr-defined]
    count = service._waiting_now  # type: ignore[attr-defined]
    if not count:
        return format_html('<p class="impact">{}</p>', f"No messages are waiting for {service.name}.")
    waiting = "message is waiting" if count == 1 else "messages are waiting"
    return format_html('<p class="impact"><strong>{}</strong> {} for {}.</p>', capped(count), waiting, service.name)


# ---- links and forms ----------------------------------------------------------------------------------------------
@register.simple_tag(takes_context=True)
def query_with(context: Context, **changes: Any) -> str:
    """The page's own query with some parameters changed; None or an empty text removes one."""
    query = context["request"].GET.copy()
    for name, value in changes.items():
        if value is None or value == "":
            query.pop(name, None)
        else:
            query[name] = value
    return f"?{query.urlencode()}"


@register.simple_tag
def field(bound: BoundField, wide: bool | None = None, label: str = "") -> SafeString:
    """A form's field with its label, help and errors, linked for screen readers."""
    identity = bound.id_for_label or bound.html_name
    described = []
    parts = []
    if bound.help_text:
        described.append(f"{identity}_help")
        parts.append(format_html('<p class="help" id="{}_help">{}</p>', identity, bound.help_text))
    if bound.errors:
        described.append(f"{identity}_error")
        parts.append(
            format_html(
                '<p class="error" id="{}_error">{}</p>',
                identity,
                format_html_join(" ", "{}", ((error,) for error in bound.errors)),
            )
        )
    attributes: dict[str, Any] = {"aria-describedby": " ".join(described) or None}
    if bound.errors:
        attributes["aria-invalid"] = "true"
    widget = bound.as_widget(attrs={name: value for name, value in attributes.items() if value})
    title = format_html('<label for="{}">{}</label>', identity, label or bound.label)
    is_check = isinstance(bound.field.widget, CheckboxInput)
    if is_check and hasattr(bound.form, "was_sent"):
        # A cleared checkbox sends nothing. The hidden field tells it from a checkbox that the form did not have.
        widget = format_html('<input type="hidden" name="{}" value="false">{}', bound.html_name, widget)
    classes = ["field"]
    if is_check:
        classes.append("check")
    if wide or (wide is None and isinstance(bound.field.widget, Textarea)):
        classes.append("wide")
    extra = getattr(bound.form, "shown_for", {}).get(bound.name, "")
    return format_html(
        "<div{}>{}{}{}</div>",
        flatatt({"class": " ".join(classes), **({"data-shown-for": extra} if extra else {})}),
        widget if is_check else title,
        title if is_check else widget,
        format_html_join("", "{}", ((part,) for part in parts)),
    )


# ---- panels -------------------------------------------------------------------------------------------------------
@register.simple_tag(takes_context=True)
def panel(context: Context, name: str) -> SafeString:
    """Include a panel in its page, as its fragment's view renders it."""
    engine = cast(template.Template, context.template).engine
    return live.versioned(engine.get_template(name).render(context))[0]


@register.simple_tag(name="live")
def live_attributes(
    url: str, every: int = 3, topics: str = "messages services breakers", service: str = ""
) -> SafeString:
    """Attributes of a panel's root element that reload it: ``<section id="…" {% live url topics="workers" %}>``.

    live.js reloads the panel after an event of one of the ``topics`` (only of ``service``, if given), but for counts
    of messages at most every ``every`` seconds. Without the event stream it polls every ``every`` seconds.
    """
    return format_html(
        """hx-get="{}" hx-trigger="refresh" hx-swap="morph" hx-ext="morph" hx-vals='{{"v": "{}"}}' """
        'data-live="{}" data-every="{}"{}',
        url,
        live.VERSION,
        topics,
        every,
        format_html(' data-service="{}"', service) if service else "",
    )
