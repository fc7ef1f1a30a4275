// Puts a panel's next version in place node by node, so that focus, selection, what is unfolded and what is typed stay.
import { $ } from "./dom.js";

const OWN = new Set(["open", "data-sent", "aria-disabled"]); // attributes that the person here has set, not the server
const ROWS = "tbody, ul.attention, [data-rows]"; // lists that must not move under somebody's pointer or focus
const held = new Map(); // list → its next version, until nobody points into it
const notice = $("#held");

htmx.defineExtension("morph", {
  isInlineSwap: (style) => style === "morph",
  handleSwap: (style, target, fragment) => {
    if (style !== "morph" || !fragment.firstElementChild) return false;
    morph(target, fragment.firstElementChild);
    showHeld();
    return [target];
  },
});

const morph = (from, to) => {
  if (from.isEqualNode(to)) return;
  takeAttributes(from, to);
  if (from.matches("dialog[open], textarea, select")) return; // it is being filled in
  if (!from.matches(ROWS)) return morphChildren(from, to);
  const [before, after] = [keysOf(from), keysOf(to)];
  held.delete(from);
  if (!isInUse(from) || before.every((key, place) => key === after[place])) return morphChildren(from, to);
  held.set(from, to);
  const next = new Map([...to.children].map((row) => [keyOf(row), row]));
  for (const row of from.children) if (next.has(keyOf(row))) morph(row, next.get(keyOf(row)).cloneNode(true));
};

const morphChildren = (from, to) => {
  const wanted = new Set(keysOf(to));
  for (const child of [...from.children]) if (keyOf(child) && !wanted.has(keyOf(child))) child.remove();
  const byKey = new Map([...from.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let at = from.firstChild;
  const drop = () => { const gone = at; at = at.nextSibling; gone.remove(); };
  for (const next of [...to.childNodes]) {
    const key = keyOf(next);
    if (byKey.has(key)) while (at && !keyOf(at)) drop(); // so that what stays is not moved: moving takes the focus away
    const match = key ? byKey.get(key) : at && !keyOf(at) && at;
    if (!match || match.nodeName !== next.nodeName) {
      from.insertBefore(next, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else from.insertBefore(match, at);
    if (match.nodeType === Node.ELEMENT_NODE) morph(match, next);
    else if (match.nodeValue !== next.nodeValue) match.nodeValue = next.nodeValue;
  }
  while (at) drop();
};

const takeAttributes = (from, to) => {
  const isField = from.matches("input:not([type=hidden])");
  const isOwn = (name) => OWN.has(name) || (isField && (name === "value" || name === "checked"));
  for (const { name, value } of to.attributes) {
    if (!isOwn(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) if (!isOwn(name) && !to.hasAttribute(name)) from.removeAttribute(name);
};

/** What tells a node from its siblings across versions: its id, or in a list the first address that it links to.
 *  Not `node.id`: of a form that is its field of that name. */
const keyOf = (node) =>
  node.getAttribute?.("id") || (/^(TR|LI)$/.test(node.nodeName) && $("a[href]", node)?.getAttribute("href")) || "";
const keysOf = (list) => [...list.children].map(keyOf);

// ---- lists that wait --------------------------------------------------------------------------------------------
const isInUse = (list) => list.matches(":hover") || list.contains(document.activeElement) || $("input:checked", list);

const showHeld = () => {
  const count = [...held].reduce((sum, [list, to]) => {
    const before = new Set(keysOf(list));
    return sum + keysOf(to).filter((key) => !before.has(key)).length;
  }, 0);
  const words = held.size === 0 ? "" : count ? `${count} new` : "Changed";
  if (notice.textContent !== words) notice.textContent = words;
  notice.hidden = held.size === 0;
};

/** Lets the lists move that nobody points into any more; all of them when somebody asks for it. */
export const release = (all = false) => {
  for (const [list, to] of held) {
    if (!all && list.isConnected && isInUse(list)) continue;
    held.delete(list);
    const focused = list.contains(document.activeElement) && document.activeElement;
    morphChildren(list, to);
    htmx.process(list);
    if (focused) (focused.isConnected ? focused : $("a[href]", list))?.focus({ preventScroll: true });
  }
  showHeld();
};
notice?.addEventListener("click", () => release(true));
/** Whether somebody has text of this panel selected, which a new version would undo. */
export const isSelected = (panel) => {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && panel.contains(selection.anchorNode));
};
