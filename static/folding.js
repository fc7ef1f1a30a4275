// Folds the objects and lists of indented JSON: a button at the line that opens one hides the lines up to its end.
import { $$ } from "./dom.js";

const MOST = 2000; // lines; a longer text stays as it is, because each line becomes an element
const SHORTEST = 2; // lines between the brackets

/** The nodes of each line. Highlighted pieces are split where they go over several lines. */
const linesOf = (pre) => {
  const lines = [[]];
  for (const node of [...pre.childNodes]) {
    node.textContent.split("\n").forEach((text, place) => {
      if (place) lines.push([]);
      if (!text) return;
      const piece = node.cloneNode();
      piece.textContent = text;
      lines.at(-1).push(piece);
    });
  }
  return lines;
};

const indentOf = (text) => text.length - text.trimStart().length;

const fold = (pre) => {
  const text = pre.textContent;
  const texts = text.split("\n");
  if (!/^[[{]\n {2}/.test(text) || texts.length > MOST) return;
  const rows = linesOf(pre).map((nodes, place) => {
    const row = document.createElement("span");
    row.className = "json-line";
    row.append(...nodes, place < texts.length - 1 ? "\n" : "");
    return row;
  });
  pre.replaceChildren(...rows);
  pre.classList.add("folds");
  texts.forEach((line, start) => {
    if (!/[[{]$/.test(line)) return;
    const end = texts.findIndex((other, place) => place > start && indentOf(other) === indentOf(line));
    if (end - start <= SHORTEST) return;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "fold" });
    button.setAttribute("aria-expanded", "true");
    button.setAttribute("aria-label", `Fold ${end - start - 1} lines`);
    button.addEventListener("click", () => {
      const isOpen = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(isOpen));
      showLines(rows);
    });
    rows[start].dataset.end = end;
    rows[start].prepend(button);
  });
};

/** A line is hidden while any fold around it is closed. */
const showLines = (rows) => {
  let hiddenUntil = 0;
  rows.forEach((row, place) => {
    row.hidden = place < hiddenUntil;
    const isClosed = row.querySelector(".fold[aria-expanded=false]");
    row.classList.toggle("folded", Boolean(isClosed));
    if (isClosed) hiddenUntil = Math.max(hiddenUntil, Number(row.dataset.end));
  });
};

export const foldAll = () => $$("#result pre.code:not(.folds)").forEach(fold);
