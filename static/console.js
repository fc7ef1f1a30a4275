// What JavaScript adds to the console. Every page and form works without it.
import { $, $$, isNews, rowLink } from "./dom.js";
import "./live.js";
import "./keys.js";

if ($("form[data-watched]")) import("./unsaved.js");
const foldJson = async () => $("#result pre.code") && (await import("./folding.js")).foldAll();
foldJson();
document.addEventListener("htmx:afterSwap", foldJson);

document.documentElement.classList.add("js");
if ($("[data-suggest]")) import("./search.js");

// ---- the viewer's time zone, in which the server renders absolute times -------------------------------------------
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) {
  document.cookie = `switchboard_zone=${zone}; path=/; max-age=31536000; SameSite=Lax`;
  // A page from before the cookie, or from before a journey, is loaded once more; never one that a form was sent to.
  const wasOther = document.documentElement.dataset.zone !== zone && document.cookie.includes(`switchboard_zone=${zone}`);
  if (wasOther && isNews("switchboard-zone", zone) && $("time") && !$("[aria-invalid], [role=alert]")) location.reload();
}

// ---- the theme, without the request that the form makes; dashboard/theme.py reads the cookie --------------------------
document.addEventListener("click", (event) => {
  const button = event.target.closest?.(".theme button");
  if (!button) return;
  event.preventDefault();
  const lasts = button.value ? 31536000 : 0;
  document.cookie = `switchboard_theme=${button.value}; path=/; max-age=${lasts}; SameSite=Lax${location.protocol === "https:" ? "; Secure" : ""}`;
  document.documentElement.dataset.theme = button.value;
  $("meta[name=color-scheme]").content = button.value || "light dark";
  for (const each of $$(".theme button")) each.setAttribute("aria-pressed", String(each.value === button.value));
  document.dispatchEvent(new Event("themechange")); // charts are drawn again
});

// ---- relative times (the same words as the `ago` filter) --------------------------------------------------------
const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const words = (seconds) => {
  const distance = Math.abs(seconds);
  if (distance < 2) return "now";
  const [size, unit] = units.find(([limit]) => distance >= limit) || units[3];
  const amount = `${Math.floor(distance / size)} ${unit}`;
  return seconds > 0 ? `in ${amount}` : `${amount} ago`;
};
const twoUnits = (left) => {
  const first = units.findIndex(([size]) => left >= size);
  return units.slice(first, first + 2)
    .map(([size, unit]) => { const amount = Math.floor(left / size); left %= size; return amount ? `${amount} ${unit}` : ""; })
    .filter(Boolean).join(" ");
};
const tick = () => {
  if (document.hidden) return;
  const now = Date.now();
  for (const time of $$("time.ago")) {
    const text = words((Date.parse(time.dateTime) - now) / 1000);
    if (text !== time.textContent) time.textContent = text;
  }
  for (const time of $$("time[data-countdown]")) {
    const left = Math.ceil((Date.parse(time.dateTime) - now) / 1000);
    const text = left > 0 ? `in ${twoUnits(left)}` : "due now";
    if (text !== time.textContent) time.textContent = text;
  }
};
setInterval(tick, 1000);

// ---- forms: confirm, and submit once ----------------------------------------------------------------------------
const ask = $("#confirm");
let asking = null;
document.addEventListener("submit", (event) => {
  const form = event.target;
  const submitter = event.submitter;
  const question = submitter?.dataset.confirm || form.dataset.confirm;
  if (question && ask && form.dataset.confirmed !== "yes") {
    event.preventDefault();
    event.stopImmediatePropagation();
    asking = { form, submitter };
    $("#confirm-text").textContent = question;
    $("#confirm-yes").textContent = form.dataset.confirmLabel || submitter?.textContent.trim() || "Continue";
    ask.returnValue = "";
    ask.showModal();
    return;
  }
  if (form.getAttribute("method")?.toLowerCase() !== "post" || event.defaultPrevented) return; // form.method may be a field named "method"
  if (form.dataset.sent === "yes") {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  setTimeout(() => {
    for (const button of $$("button:not([type=button])", form)) button.setAttribute("aria-disabled", "true");
  });
  setTimeout(() => release(form), 10000); // a download does not leave the page
}, true);
ask?.addEventListener("close", () => {
  const { form, submitter } = asking || {};
  asking = null;
  if (!form) return;
  if (ask.returnValue === "yes") {
    form.dataset.confirmed = "yes";
    form.requestSubmit(submitter?.isConnected ? submitter : undefined);
    delete form.dataset.confirmed;
  } else {
    submitter?.focus();
  }
});
const release = (form) => {
  delete form.dataset.sent;
  for (const button of $$("button[aria-disabled]", form)) button.removeAttribute("aria-disabled");
};
addEventListener("pageshow", () => $$("form[data-sent]").forEach(release));
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.elt.matches?.("form[data-sent]")) release(event.detail.elt);
});

// A refused form with data-refused comes back as a whole, with its errors; else only the result is swapped.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const part = detail.xhr.status === 422 && detail.requestConfig?.elt.dataset?.refused;
  if (!part) return;
  detail.target = $(part);
  detail.selectOverride = part;
});

// ---- fields shown for some values of another field: data-shown-for="field=value other" ---------------------------
const showFields = () => {
  for (const part of $$("[data-shown-for]")) {
    const [name, values] = part.dataset.shownFor.split("=");
    const input = $(`[name="${CSS.escape(name)}"]`, part.closest("form") || document);
    if (input) part.hidden = !values.split(" ").includes(input.value);
  }
};
document.addEventListener("change", ({ target }) => {
  showFields();
  if (target.matches("[data-tick-all]")) for (const box of $$("tbody input[name=id]", target.form)) box.checked = target.checked;
  showTicked();
});
document.addEventListener("htmx:afterSwap", () => {
  showFields();
  showTicked();
  tick();
});

// ---- the number of selected rows --------------------------------------------------------------------------------
const showTicked = () => {
  for (const words of $$("[data-ticked]")) {
    const count = $$("tbody input:checked", words.closest("form")).length;
    words.textContent = count ? `${count} selected` : "selected";
  }
};
showFields();
showTicked();

// ---- a link to a closed <details> opens it ----------------------------------------------------------------------
const openTarget = () => {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!target || target.tagName !== "DETAILS" || target.open) return;
  target.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", openTarget);
openTarget();

// ---- a link with data-dialog shows the form of the linked page in a dialog --------------------------------------
const sheet = $("#sheet");
const showForm = async (address) => {
  try {
    const answer = await fetch(address);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const form = $("main form.stack", page);
    if (!form || answer.redirected) throw new Error("the page has no form");
    $("#sheet-title").textContent = $("h1", page).textContent;
    $("#sheet-form").replaceChildren(document.adoptNode(form));
    showFields();
    sheet.showModal();
  } catch {
    location.assign(address);
  }
};

// ---- a click anywhere in a row opens it, as its link would: with Ctrl or the middle button in another tab -----------
const CONTROLS = "a, button, input, select, textarea, label, summary, pre, [popover]";
const rowAt = ({ target }) => {
  const row = target.closest?.("table.rows tbody tr");
  return row && !target.closest(CONTROLS) && getSelection().isCollapsed ? rowLink(row) : null;
};
document.addEventListener("click", (event) => {
  const link = rowAt(event);
  if (!link) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) open(link.href, "_blank", "noopener");
  else link.click();
});
document.addEventListener("mousedown", (event) => {
  if (event.button === 1 && rowAt(event)) event.preventDefault(); // else the middle button scrolls or pastes
});
document.addEventListener("auxclick", (event) => {
  const link = event.button === 1 && rowAt(event);
  if (link) open(link.href, "_blank", "noopener");
});

// ---- clicks -----------------------------------------------------------------------------------------------------
document.addEventListener("click", async (event) => {
  const target = event.target.closest?.("[data-dialog], [data-close], [data-copy], [data-wrap], [data-dismiss]");
  if (!target) return;
  if (target.dataset.dialog !== undefined) {
    if (!sheet?.showModal || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    showForm(target.href);
  } else if (target.dataset.close !== undefined) {
    const dialog = target.closest("dialog");
    if (!dialog) return;
    event.preventDefault();
    dialog.close();
  } else if (target.dataset.dismiss !== undefined) {
    target.closest(".notice")?.remove();
  } else if (target.dataset.wrap) {
    const isWrapped = $(target.dataset.wrap)?.classList.toggle("wrap");
    target.setAttribute("aria-pressed", String(Boolean(isWrapped)));
  } else if (target.dataset.copy) {
    const sources = $$(target.dataset.copy); // a long body is in two parts
    const label = target.textContent;
    try {
      await navigator.clipboard.writeText(sources.map((source) => source.value ?? source.textContent).join(""));
      target.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(sources[0]);
      target.textContent = "Selected, press Ctrl+C";
    }
    setTimeout(() => { target.textContent = label; }, 2000);
  }
});

// ---- a toast leaves after a while, but not from under the pointer or the focus -------------------------------------
const TOAST_TIME = 8000; // ms
const leave = (toast) => (toast.matches(":hover, :focus-within") ? setTimeout(leave, 1000, toast) : toast.remove());
for (const toast of $$(".toasts .notice.ok")) setTimeout(leave, TOAST_TIME, toast);
