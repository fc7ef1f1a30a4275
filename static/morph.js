// Swaps in the next version of a panel with Idiomorph, which matches elements by id, and adds what Idiomorph does not
// do: a list keeps its order while the operator uses it, and the state that the operator set in the page stays.
import { $ } from "./dom.js";

const OWN = new Set(["open", "data-sent", "aria-disabled"]); // attributes that the browser sets, not the server
const TYPED = new Set(["value", "checked"]);
const LISTS = "tbody, ul.attention, ul.lines, [data-rows]"; // their rows have ids
const held = new Map(); // list → its next version, until the operator leaves the list
const notice = $("#held");

htmx.defineExtension("morph", {
  isInlineSwap: (style) => style === "morph",
  handleSwap: (style, target, fragment) => {
    if (style !== "morph" || !fragment.firstElementChild) return false;
    Idiomorph.morph(target, fragment.firstElementChild, { callbacks });
    showHeld();
    return [target];
  },
});

const callbacks = {
  beforeNodeMorphed: (node, next) => {
    if (node.nodeType !== Node.ELEMENT_NODE) return true;
    if (node.matches("dialog[open], textarea, select")) return false; // the operator may be filling it in
    if (node.matches(".plot")) return false; // drawn by charts.js, which reads the table's next version
    return !node.matches(LISTS) || mayMove(node, next);
  },
  beforeAttributeUpdated: (name, element) => {
    const isField = element.matches("input:not([type=hidden])");
    return !OWN.has(name) && !(isField && TYPED.has(name));
  },
};

// ---- lists that wait --------------------------------------------------------------------------------------------
/** Whether a list may take its next version now. If not, hold that version and update only the rows that stay. */
const mayMove = (list, next) => {
  held.delete(list);
  const [before, after] = [idsOf(list), idsOf(next)];
  if (!isInUse(list) || before.every((id, place) => id === after[place])) return true; // rows at the end move nothing
  held.set(list, next.cloneNode(true));
  const rows = new Map([...next.children].map((row) => [row.getAttribute("id"), row]));
  for (const row of list.children) {
    const nextRow = rows.get(row.getAttribute("id"));
    if (nextRow) Idiomorph.morph(row, nextRow, { callbacks });
  }
  return false;
};

/** Not `row.id`: in a form that is the field named "id". */
const idsOf = (list) => [...list.children].map((row) => row.getAttribute("id"));
const isInUse = (list) => list.matches(":hover") || list.contains(document.activeElement) || $("input:checked", list);

const showHeld = () => {
  let count = 0;
  for (const [list, next] of held) {
    const before = new Set(idsOf(list));
    count += idsOf(next).filter((id) => !before.has(id)).length;
  }
  const words = held.size === 0 ? "" : count ? `${count} new` : "Changed";
  if (notice.textContent !== words) notice.textContent = words;
  notice.hidden = held.size === 0;
};

/** Move the held lists that the operator has left; all of them when the operator asks for it. */
export const release = (all = false) => {
  for (const [list, next] of held) {
    if (!all && list.isConnected && isInUse(list)) continue;
    held.delete(list);
    const focused = list.contains(document.activeElement) && document.activeElement;
    Idiomorph.morph(list, [...next.childNodes], { callbacks, morphStyle: "innerHTML" });
    htmx.process(list);
    if (focused) (focused.isConnected ? focused : $("a[href]", list))?.focus({ preventScroll: true });
  }
  showHeld();
};
notice?.addEventListener("click", () => release(true));

/** Whether the operator has selected text in this panel: a new version would undo the selection. */
export const isSelected = (panel) => {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && panel.contains(selection.anchorNode));
};
