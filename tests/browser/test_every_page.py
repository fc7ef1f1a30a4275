"""Every page of the console, as the routes have them: clean in every look, and walked without JavaScript.

Axe looks at a page twice: in light at a desk's width, and in dark at a phone's. It must scroll sideways in neither, nor
at the widths between.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.template.loader import render_to_string
from django.urls import resolve
from playwright.sync_api import Browser, Page, Route, expect

from dashboard.urls import urlpatterns
from tests.browser.conftest import AT_A_DESK, AT_NIGHT_BY_PHONE, WORKERS, Complaints, Person, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

# By where they stand in the rail; `town` makes the names in braces.
PAGES = {
    "overview": ["/", "/?span=month", "/start/", "/start/?message={delivered}"],
    "services": [
        "/services/",
        "/services/?q=nothing-is-called-so",
        "/services/?tag=everything&sort=-traffic",
        "/services/new/",
        "/services/new/?all",
        "/services/town/delete/",
        "/services/new/?preset=webhook&all",
        "/services/town/history/",
        "/services/town/pause/",
        "/services/town-paused/resume/",
    ],
    "service": [
        "/services/town/",
        "/services/town-paused/",
        "/services/town/edit/",
        "/services/town/edit/?all",
        "/services/town/try/",
        "/services/town/endpoints/new/",
        "/services/town/endpoints/orders/edit/",
        "/services/town/calls/",
        "/services/town/calls/?trigger=health",
        "/services/town/calls/?trigger=message",
        "/services/town/calls/{call}/",
    ],
    "breakers": [
        "/breakers/",
        "/services/town-down/",
        "/services/town-down/breaker/",
        "/services/town/breaker/",
        "/services/town-signed/signing/rotate/",
        "/services/town-signed/",
    ],
    "messages": [
        "/messages/",
        "/messages/?service=town&status=dead",
        "/messages/?q=staus%3Adead",
        "/messages/?q=path%3A%2Fnowhere&dead_reason=attempts",
        "/messages/breakdown/?service=town",
        "/messages/fields/",
        "/messages/new/",
        "/messages/new/?message={dead}",
    ],
    "message": [
        "/messages/{dead}/",
        "/messages/{dead}/?view=hex",
        "/messages/{delivered}/",
        "/messages/{held}/",
        "/messages/{dead}/replay/",
        "/messages/{replay}/",
        "/messages/{replay}/changes/",
    ],
    "failures": [
        "/failures/?service=town",
        "/failures/?state=resolved",
        "/failures/{failure}/",
        "/failures/{failure}/note/",
    ],
    "operations": ["/operations/", "/operations/{planned}/", "/operations/{running}/", "/operations/{finished}/"],
    "lab": ["/lab/", "/lab/?message={dead}", "/lab/?endpoint=town/orders"],
    "rest": ["/workers/", "/status/", "/audit/", "/audit/?target=town", "/audit/?actor=nobody-of-that-name"],
    "docs": ["/docs/", "/docs/operating/", "/docs/contract/", "/docs/reference/configuration/", "/docs/glossary/"],
    "settings": [
        "/settings/",
        "/settings/people/new/",
        "/settings/people/1/edit/",
        "/settings/tokens/new/",
        "/settings/retention/",
        "/settings/backups/",
        "/settings/password/",
    ],
}
WIDTHS = (320, 768, 1024)  # CSS pixels: the narrowest of WCAG 1.4.10, a tablet, and half of a screen
A_PAGE = 50  # messages, so that the list has a page of older ones
LONG_NAME = "a-service-whose-name-is-as-long-as-the-field-of-the-form-allows"
LOCKED_OUT_AFTER = 5  # failures with one name, as the settings have it
LOOKED_AT_BELOW = {"service-restore", "lab-result", "service-preview", "login", "setup"}
NO_PAGES = {  # they answer with a file, or do what a form asks and lead back
    *(
        "service-cancel-waiting",
        "signing-enable",
        "signing-disable",
        "endpoint-delete",
        "token-delete",
        "logout",
        "theme",
    ),
    *("view-save", "view-delete", "message-export", "message-body", "attempt-body"),
    *("message-cancel", "message-retry-now", "failure-resolve", "failure-open", "failure-ignore"),
    *("operation-new", "operation-start", "operation-change", "operation-pause", "operation-resume"),
    *("lab-cancel", "docs-picture", "start-register", "start-sandbox", "start-send"),
    *("operation-cancel", "healthz", "readyz", "metrics"),
}


@pytest.fixture(scope="module")
def town(installation: Installation, token: str) -> Iterator[dict[str, str]]:
    """One object for each kind of page: the ids, by their name in braces above."""
    with Receiver() as sink, installation.api(token) as api:
        sink.decide(_judged)
        services: dict[str, dict[str, object]] = {
            "town": {"retry": {"max_attempts": 1}, "owner": "the people of the town", "tags": ["everything"]},
            "town-paused": {},
            "town-down": {"breaker": {"consecutive_failures": 1, "open_for": 3600}},
            "town-signed": {},
            LONG_NAME: {"owner": LONG_NAME, "tags": [LONG_NAME[:30]]},
        }
        for name, fields in services.items():
            _made(api.post("services", json={"name": name, "base_url": sink.url, **fields}))
        endpoint = {"name": "orders", "method": "POST", "path": "/orders", "description": "An order."}
        _made(api.post("services/town/endpoints", json=endpoint))
        _made(api.post("services/town-paused/pause", json={"reason": "their maintenance"}))
        _made(api.post("services/town-signed/signing/rotate"))

        def send(service: str, path: str) -> str:
            sent = {"service": service, "path": path, "body": {"order": 1, "path": path}}
            return str(_made(api.post("messages", json=sent))["id"])

        waiting = [{"service": "town-paused", "path": f"/later/{number}"} for number in range(A_PAGE)]
        _made(api.post("messages/batch", json={"messages": waiting}))

        def operation(**fields: object) -> str:
            return str(
                _made(api.post("operations", json={"kind": "replay", "reason": "They are back", **fields}))["id"]
            )

        dead = [send("town", f"/refused/{number}") for number in range(4)]
        ids = {"dead": dead[0], "delivered": send("town", "/taken"), "held": send("town-down", "/refused")}
        send("town-paused", "/later")
        _made(api.post("process", json={"service": "town", "method": "GET", "path": "/asked"}))
        ids["call"] = next(call.header("webhook-id") or "" for call in sink.calls if call.path == "/asked")
        until(
            lambda: all(_state(api, f"messages/{one}") == "dead" for one in dead),
            WORKERS / 1000,
            lambda: "they did not die",
        )
        until(lambda: _state(api, "services/town-down/breaker") == "open", WORKERS / 1000, lambda: "it has not opened")
        edited = {"body": {"order": 2}}
        ids["replay"] = str(_made(api.post(f"messages/{ids['delivered']}/replay", json=edited))["id"])
        taken = f"messages/{ids['replay']}"
        until(lambda: _state(api, taken) == "delivered", WORKERS / 1000, lambda: "the replay is not delivered")
        long = send(LONG_NAME, f"/{LONG_NAME}/taken")
        until(lambda: _state(api, f"messages/{long}") == "delivered", WORKERS / 1000, lambda: "it is not delivered")
        _made(api.post(f"messages/{long}/replay"))
        ids["failure"] = api.get("failures", params={"service": "town"}).json()["items"][0]["id"]
        ids["planned"] = operation(filter=f"id:{dead[1]}", dry_run=True)
        ids["running"] = operation(filter=f"id:{dead[1]},{dead[2]}", rate=0.01)
        ids["finished"] = operation(filter=f"id:{dead[3]}", rate=50)
        states = {"planned": "finished", "running": "running", "finished": "finished"}
        for name, state in states.items():
            at = f"operations/{ids[name]}"
            until(lambda: _state(api, at) == state, WORKERS / 1000, lambda: f"{name} is {_state(api, at)}")  # noqa: B023
        yield ids
        api.post(f"operations/{ids['running']}/cancel")  # refused where the tests took so long that it has ended


def _judged(call: Call) -> Answer:
    if call.path.startswith("/refused"):
        return Answer(status=503, body={"code": "overloaded", "message": "Come back later."})
    return Answer(status=200, body={"taken": True})


def _made(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def _state(api: httpx.Client, address: str) -> str:
    found = api.get(address).json()
    return str(found.get("state") or found["status"])


def test_no_page_is_left_out() -> None:
    anything = defaultdict(lambda: "1")
    walked = {
        resolve(address.partition("?")[0].format_map(anything)).url_name for part in PAGES.values() for address in part
    }
    known = {pattern.name for pattern in urlpatterns if hasattr(pattern, "name") and not pattern.name.startswith("_")}
    assert known == walked | LOOKED_AT_BELOW | NO_PAGES


@pytest.mark.parametrize("part", PAGES)
def test_every_page_is_clean(signed_in: Page, town: dict[str, str], part: str, shot: Callable[..., None]) -> None:
    for address in PAGES[part]:
        AT_A_DESK.put_on(signed_in)
        answer = signed_in.goto(address.format_map(town))
        assert answer is not None
        assert answer.status == 200, address
        assert signed_in.locator("main .button.primary:visible").count() <= 1, f"two first actions at {address}"
        clean_in_both_looks(signed_in, shot, re.sub(r"[^a-z]+", "-", address).strip("-") or "overview")


def test_a_phone_shows_six_messages_at_once(signed_in: Page, town: dict[str, str]) -> None:
    AT_NIGHT_BY_PHONE.put_on(signed_in)
    signed_in.goto("/messages/")
    rows = signed_in.locator(".message-rows tbody tr")
    expect(rows.nth(5)).to_be_visible()
    boxes = [box for row in rows.all() if (box := row.bounding_box())]
    bar = signed_in.locator(".rail").bounding_box()
    assert bar is not None
    assert sum(box["y"] + box["height"] <= bar["y"] for box in boxes) >= 6, boxes
    assert max(box["height"] for box in boxes) < 3 * 20 + 16, "three lines"


def test_what_forms_lead_to_is_clean(signed_in: Page, town: dict[str, str], shot: Callable[..., None]) -> None:
    def press(name: str) -> None:
        AT_A_DESK.put_on(signed_in)
        signed_in.locator("main").get_by_role("button", name=name, exact=True).click()

    signed_in.goto(f"/lab/?message={town['delivered']}")
    press("Preview")
    expect(signed_in.locator("main")).to_contain_text("nothing was sent")
    clean_in_both_looks(signed_in, shot, "form-lab-preview")
    press("Send")
    signed_in.wait_for_url(re.compile("/lab/[a-z]+_"))
    assert resolve(urlsplit(signed_in.url).path).url_name == "lab-result"
    clean_in_both_looks(signed_in, shot, "form-lab-result")

    signed_in.goto(f"/messages/{town['dead']}/replay/")
    signed_in.get_by_label("Body").fill('{"order": 2}')
    press("Review changes")
    expect(signed_in.locator("h1")).to_contain_text("Review")
    clean_in_both_looks(signed_in, shot, "form-replay-review")

    signed_in.goto("/services/town-signed/signing/rotate/")
    press("Rotate secret")
    expect(signed_in.locator("#secret")).to_contain_text("whsec_")
    clean_in_both_looks(signed_in, shot, "form-signing-made")

    signed_in.goto("/settings/tokens/new/")
    signed_in.get_by_label("Name").fill("a-program-of-the-town")
    press("Create token")
    expect(signed_in.locator("#secret")).not_to_be_empty()
    clean_in_both_looks(signed_in, shot, "form-token-made")

    signed_in.goto("/services/new/?all")
    with signed_in.expect_popup() as opened:  # the button serves browsers without JavaScript
        signed_in.locator("button[formtarget=_blank]").dispatch_event("click")
    expect(opened.value.locator("h1")).to_contain_text("Preview of these settings")
    AT_NIGHT_BY_PHONE.put_on(opened.value)
    expect_clean(opened.value)


REFUSED = {  # a form, its invalid fields, and the button
    "service": ("/services/new/?all", {"name": "No Name!", "retry.max_attempts": "many"}, "Register"),
    "endpoint": ("/services/town/endpoints/new/", {"name": "orders", "path": "no slash"}, "Save endpoint"),
    "message": ("/messages/new/", {"body": "{no json", "path": ""}, "Queue message"),
    "lab": ("/lab/", {"path": ""}, "Send"),
    "person": ("/settings/people/new/", {"username": "mary", "password": "short"}, "Add"),
    "password": (
        "/settings/password/",
        {"old_password": "wrong", "new_password1": "a", "new_password2": "b"},
        "Change",
    ),
    "replay": ("/messages/{dead}/replay/", {"body": "{no json"}, "Review"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_refused_form_is_clean(
    signed_in: Page, town: dict[str, str], form: str, complaints: Complaints, shot: Callable[..., None]
) -> None:
    complaints.allow("Failed to load resource.*422")
    address, fields, button = REFUSED[form]
    signed_in.goto(address.format_map(town))
    for name, value in fields.items():
        signed_in.locator(f'main [name="{name}"]').fill(value)
    signed_in.locator("main form.stack").get_by_role("button", name=button).first.click()
    expect(signed_in.locator("main [aria-invalid=true]").first).to_be_visible()
    clean_in_both_looks(signed_in, shot, f"refused-{form}")


def test_what_strangers_see_is_clean(
    page: Page, installation: Installation, complaints: Complaints, shot: Callable[..., None]
) -> None:
    complaints.allow("Failed to load resource")
    for address, heading, name in (
        ("/status/", "Sign in", "stranger-login"),
        ("/setup/no-such-link/", "no longer works", "stranger-used-up"),
        ("/nowhere/", "Not found", "stranger-not-found"),
    ):
        is_clean_at(address, heading, page, shot, name)
    page.goto("/login/")
    for guess in range(1, LOCKED_OUT_AFTER + 1):
        page.get_by_label("Username").fill("nobody")
        page.locator("input[type=password]").fill(f"guess {guess}")
        page.get_by_role("button", name="Sign in").click()
        is_last = guess == LOCKED_OUT_AFTER
        expect(page.locator("main")).to_contain_text("Too many attempts" if is_last else "Wrong username or password")
        if guess == 1:
            clean_in_both_looks(page, shot, "stranger-login-refused")
    clean_in_both_looks(page, shot, "stranger-locked-out")


def test_errors_are_clean(
    page: Page, installation: Installation, ruth: Person, complaints: Complaints, shot: Callable[..., None]
) -> None:
    complaints.allow("Failed to load resource")
    ruth.sign_in(page)
    is_clean_at("/settings/", "Not allowed", page, shot, "error-forbidden")
    is_clean_at("/messages/msg_1_00000000/", "Not found", page, shot, "error-not-found")
    for name in ("malformed", "broken"):  # no address leads to these while nothing is wrong
        html = render_to_string(f"errors/{name}.html")
        page.route("**/services/", partial(answer_with, html))
        page.goto("/services/")
        clean_in_both_looks(page, shot, f"error-{name}")
        page.unroute("**/services/")


def test_every_page_can_be_walked_without_javascript(
    browser: Browser, signed_in: Page, installation: Installation, town: dict[str, str]
) -> None:
    context = browser.new_context(
        base_url=installation.url, java_script_enabled=False, storage_state=signed_in.context.storage_state()
    )
    try:
        plain = context.new_page()
        for address in [address for part in PAGES.values() for address in part]:
            answer = plain.goto(address.format_map(town))
            assert answer is not None
            assert answer.status == 200, address
            expect(plain.locator("h1")).not_to_be_empty()
            assert plain.locator(".needs-js:visible, #live:visible").count() == 0, address
    finally:
        context.close()


def is_clean_at(address: str, heading: str, page: Page, shot: Callable[..., None], name: str) -> None:
    page.goto(address)
    expect(page.locator("h1")).to_contain_text(heading)
    clean_in_both_looks(page, shot, name)


# The elements that reach beyond the screen, but for those that scroll by themselves or are hidden.
RUNS_OFF = """() => [...document.querySelectorAll("main *")]
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".tabs, thead"))
    .slice(0, 6).map((element) => element.outerHTML.slice(0, 240))"""


def clean_in_both_looks(page: Page, shot: Callable[..., None], name: str) -> None:
    for look in (AT_A_DESK, AT_NIGHT_BY_PHONE):
        look.put_on(page)
        shot(f"page-{name}-{look}")
        expect_clean(page)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        shot(f"page-{name}-{width}")
        runs_to = page.evaluate("document.documentElement.scrollWidth")
        wide = page.evaluate(RUNS_OFF) if runs_to > width else []
        assert runs_to <= width, f"{page.url} is {runs_to} px wide on a screen of {width} px: {wide}"


def answer_with(html: str, route: Route) -> None:
    route.fulfill(body=html, content_type="text/html; charset=utf-8")
