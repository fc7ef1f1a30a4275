// Keyboard shortcuts. The help dialog switches them off, and they do nothing while the operator types.
import { $, $$, stored } from "./dom.js";

const GO_WITHIN = 1500; // ms between `g` and the letter of a page
const help = $("#help");
const box = $("#keys-on");
const areOn = () => stored("switchboard-keys") !== "0";
let isGoing = false;

if (box) {
  box.checked = areOn();
  box.addEventListener("change", () => stored("switchboard-keys", box.checked ? "1" : "0"));
}
/** Open the help; the search grammar is fetched once. */
const openHelp = () => {
  help.showModal();
  const grammar = $("#help-search:empty", help);
  if (grammar) htmx.ajax("GET", grammar.dataset.address, { target: grammar, swap: "innerHTML" });
};
$("#help-button")?.addEventListener("click", (event) => {
  if (!help || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  openHelp();
});

/** Open the palette before its script has loaded, so that no keystroke is lost; the script loads on first use. */
const openPalette = async () => {
  const palette = $("#palette");
  $("input", palette).value = "";
  palette.showModal();
  (await import("./palette.js")).fill();
};
$("#palette-button")?.addEventListener("click", openPalette);

const isTyping = (element) => element.isContentEditable || element.matches?.("input:not([type=checkbox], [type=radio]), select, textarea");
const rows = () => $$("table.rows tbody tr").filter((row) => row.offsetParent !== null && $("a[href]", row));
const moveBy = (step) => {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + step))];
  $("a[href]", next).focus();
  next.scrollIntoView({ block: "nearest" });
};
const focusedRow = () => document.activeElement?.closest?.("table.rows tbody tr");

/** The replay button of the selected rows, of the focused row, or of the page's only message; never of another row. */
const replayButton = () => {
  const [row, ofSelected] = [focusedRow(), $("form:has(tbody input:checked) [value=replay]")];
  return ofSelected || (row ? $("[data-key=r]", row) : $$("[data-key=r]").find((button) => !button.closest("tr")));
};

const actions = {
  "/": () => $("main input[type=search]")?.select(),
  "?": openHelp,
  j: () => moveBy(1),
  k: () => moveBy(-1),
  x: () => focusedRow() && $("input[type=checkbox]", focusedRow())?.click(),
  r: () => replayButton()?.click(),
  n: () => $("#held:not([hidden])")?.click(),
  p: () => $("#live")?.click(),
  g: () => {
    isGoing = true;
    setTimeout(() => { isGoing = false; }, GO_WITHIN);
  },
};

// Ctrl or Cmd Enter sends the form, also from a text area.
document.addEventListener("keydown", (event) => {
  const form = event.target.form?.closest("form[data-send-key]");
  if (!form || event.key !== "Enter" || !(event.metaKey || event.ctrlKey)) return;
  event.preventDefault();
  form.requestSubmit($("button.primary", form));
});

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || !areOn() || event.altKey || $("dialog[open]") || !$(".rail")) return;
  if (event.metaKey || event.ctrlKey) {
    if (event.key.toLowerCase() !== "k" || event.shiftKey) return;
    event.preventDefault();
    openPalette();
    return;
  }
  if (isTyping(event.target)) return;
  const page = isGoing && $(`[data-go="${CSS.escape(event.key)}"]`);
  isGoing = false;
  const act = page ? () => page.click() : actions[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
