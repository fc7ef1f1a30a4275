// Completions of the search: keys and values from the server, saved views, and the earlier searches in this browser.
import { $, $$, stored } from "./dom.js";

const RECENT = 8; // searches that are remembered
const input = $("#q");
const list = $("#words");
const store = `switchboard-searches-${input.dataset.person}`;
let at = -1; // no option: Enter searches

const recent = () => {
  try {
    return JSON.parse(stored(store) || "[]");
  } catch {
    return [];
  }
};

/** Put the earlier searches that begin like the typed text above the options of the server. */
const addRecent = () => {
  const text = input.value.trim().toLowerCase();
  const fitting = recent().filter((search) => search.toLowerCase().startsWith(text) && search.toLowerCase() !== text);
  const options = fitting.slice(0, text ? 3 : RECENT).map((search, place) => {
    const option = document.createElement("li");
    Object.assign(option, { id: `recent-${place}`, role: "option" });
    option.dataset.text = search;
    option.dataset.whole = "";
    option.append(search);
    option.appendChild(document.createElement("small")).textContent = "recent";
    return option;
  });
  list.prepend(...options);
};

const show = (isOpen) => {
  list.hidden = !isOpen || !list.children.length;
  input.setAttribute("aria-expanded", String(!list.hidden));
  if (list.hidden) at = -1;
  point();
};

const point = () => {
  const options = $$("[role=option]", list);
  options.forEach((option, place) => option.setAttribute("aria-selected", String(place === at)));
  const current = options[at];
  if (current) input.setAttribute("aria-activedescendant", current.id);
  else input.removeAttribute("aria-activedescendant");
  current?.scrollIntoView({ block: "nearest" });
};

/** A saved view opens, an earlier search runs; a key waits for its value, and a value for the next word. */
const choose = (option) => {
  if (option.dataset.href) return location.assign(option.dataset.href);
  const text = option.dataset.text;
  const isKey = text.endsWith(":") || text.endsWith("=");
  input.value = isKey || "whole" in option.dataset ? text : `${text} `;
  show(false);
  if ("whole" in option.dataset) return input.form.requestSubmit();
  input.focus();
  input.dispatchEvent(new Event("input", { bubbles: true }));
};

document.addEventListener("htmx:afterSwap", ({ target }) => {
  if (target !== list) return;
  at = -1;
  addRecent();
  show(document.activeElement === input);
});
input.addEventListener("keydown", (event) => {
  const options = $$("[role=option]", list);
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    if (list.hidden) show(true);
    at = at < 0 && step < 0 ? options.length - 1 : at + step;
    if (at >= options.length) at = -1;
    point();
  } else if ((event.key === "Enter" || event.key === "Tab") && options[at] && !event.shiftKey) {
    choose(options[at]);
  } else if (event.key === "Escape") {
    show(false); // a browser would also empty the field, and a long search be lost
  } else return;
  event.preventDefault();
});
input.addEventListener("blur", () => show(false));
input.addEventListener("click", () => show(true));
list.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps its focus
list.addEventListener("click", ({ target }) => {
  const option = target.closest("[role=option]");
  if (option) choose(option);
});
input.form.addEventListener("submit", () => {
  const text = input.value.trim();
  if (!text) return;
  stored(store, JSON.stringify([text, ...recent().filter((search) => search !== text)].slice(0, RECENT)));
});
