"""The words of the templates: times, numbers, links, fields."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django import forms
from django.template import Context, Template
from django.test import RequestFactory
from django.utils import timezone

from dashboard import live
from dashboard.presenters.durations import duration_text
from dashboard.templatetags import console


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (1.5, "now"),
        (12.3, "in 12 s"),
        (-59.9, "59 s ago"),
        (-60, "1 min ago"),
        (-3 * 3600 - 59 * 60, "3 h ago"),
        (2 * 86400, "in 2 d"),
    ],
)
def test_times_near_now_are_told_from_now(seconds: float, words: str) -> None:
    assert console.relative(seconds) == words


def test_a_time_says_its_absolute_form_in_the_viewers_zone() -> None:
    moment = datetime(2026, 1, 31, 10, 0, 5, tzinfo=UTC)
    with timezone.override("Europe/Berlin"):
        shown = console.ago(moment)
    assert 'datetime="2026-01-31T10:00:05Z"' in shown
    assert 'title="31 Jan 2026, 11:00:05 CET"' in shown
    assert "–" in console.ago(None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.00996, "10 ms"),
        (0.34, "340 ms"),
        (0.9996, "1 s"),
        (1.25, "1.2 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3 * 3600 + 5 * 60 + 9, "3 h 5 min"),
        (86400 + 59, "1 d"),
    ],
)
def test_spans_have_at_most_two_units(seconds: float | None, words: str) -> None:
    assert duration_text(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (999, "999"),
        (12_412, "12,412"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_400, "999k"),
        (2_500_000, "2.5M"),
    ],
)
def test_numbers_are_short_with_the_exact_one_behind(number: int, words: str) -> None:
    shown = console.short(number)
    assert re.sub("<[^>]*>", "", shown) == words
    assert number < 100_000 or f'title="{number:,}"' in shown


@pytest.mark.parametrize(
    ("share", "words"), [(None, "–"), (1, "100"), (0.99999, "99.9"), (0.5, "50"), (0.00001, "0.1"), (0, "0")]
)
def test_all_and_nothing_are_said_only_when_they_are_exact(share: float | None, words: str) -> None:
    assert console.percent(share).removesuffix("\u202f%") == words


def test_a_time_to_the_minute_leaves_out_its_seconds() -> None:
    now = timezone.now()
    assert f">{now:%H:%M}<" in console.at(now, "minute")
    assert f">{now:%H:%M:%S}<" in console.at(now)


def test_links_keep_the_other_parameters() -> None:
    request = RequestFactory().get("/messages/?q=a+b&cursor=9&status=dead")
    page = Template('{% load console %}{% query_with cursor=None status="pending" %}')
    assert page.render(Context({"request": request})) == "?q=a+b&amp;status=pending"


def test_a_field_ties_its_help_and_its_error_to_its_input() -> None:
    class Form(forms.Form):
        name = forms.CharField(help_text="A <b>slug</b>")

    shown = Template("{% load console %}{% field form.name %}").render(Context({"form": Form({"name": ""})}))
    assert 'aria-describedby="id_name_help id_name_error"' in shown
    assert 'aria-invalid="true"' in shown
    assert "A &lt;b&gt;slug" in shown
    assert '<label for="id_name">' in shown


def test_a_version_changes_with_the_news_and_not_with_the_clock() -> None:
    def version(text: str, at: datetime) -> str:
        return live.versioned(f'<p class="{live.VERSION}">{text} {console.ago(at)}</p>')[1]

    at = timezone.now() - timedelta(seconds=10)
    first = version("a", at)
    moved_on = live.versioned(f'<p class="{live.VERSION}">a {console.ago(at).replace("10 s", "13 s")}</p>')
    assert moved_on[1] == first
    assert first in moved_on[0]
    assert version("b", at) != first
    assert version("a", at - timedelta(seconds=1)) != first


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.01, "0.01 per second"), (33.333, "33.3 per second"), (50.0, "50 per second"), (1234.5, "1,234 per second")],
)
def test_a_slow_rate_was_shown_as_none(rate: float, text: str) -> None:
    assert console.per_second(rate) == text
