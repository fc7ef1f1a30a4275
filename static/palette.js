// The command palette: pages, the actions of this page, services by name, and the actions on a service.
import { $, $$ } from "./dom.js";

const SEARCH_AFTER = 150; // ms after the last keystroke
const dialog = $("#palette");
const input = $("input", dialog);
const list = $("[role=listbox]", dialog);
let choices = [];
let services = [];
let at = 0;
let asked = 0;

export const fill = () => {
  show();
  find();
};

const words = (element) => (element.getAttribute("aria-label") || element.textContent).replace(/\s+/g, " ").trim();

/** The choices that are on the page already; to choose one is to click its element. */
const known = () => [
  ...$$("main .page-head .actions :is(a, button)").map((element) => ({ kind: "On this page", words: words(element), choose: () => element.click() })),
  ...$$(".rail [data-go]").map((element) => ({ kind: "Go to", words: $(".word", element).textContent, keys: `g ${element.dataset.go}`, choose: () => element.click() })),
];
const goTo = (address) => () => location.assign(address);

const show = () => {
  const text = input.value.trim();
  const parts = text.toLowerCase().split(/\s+/);
  const fits = (words) => parts.every((part) => words.toLowerCase().includes(part)); // the server matched a shorter text
  choices = [
    ...known().filter((choice) => fits(choice.words)),
    ...services.filter(({ name, also }) => fits(`${name} ${also || ""}`)).map(({ name, kind, url }) => ({ kind, words: name, choose: goTo(url) })),
    ...(text ? [{ kind: "Messages", words: `Search messages for “${text}”`, choose: goTo(`${dialog.dataset.messages}?q=${encodeURIComponent(text)}`) }] : []),
  ];
  at = 0;
  list.replaceChildren(...choices.map(option));
  point();
};

const option = (choice, place) => {
  const item = document.createElement("li");
  Object.assign(item, { id: `choice-${place}`, role: "option" });
  item.append(choice.words);
  for (const [name, text] of [["kbd", choice.keys], ["small", choice.kind]]) {
    if (text) item.appendChild(document.createElement(name)).textContent = text;
  }
  item.addEventListener("click", () => choose(place));
  return item;
};

const point = () => {
  [...list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === at)));
  const current = list.children[at];
  input.setAttribute("aria-activedescendant", current?.id || "");
  current?.scrollIntoView({ block: "nearest" });
};

const choose = (place) => {
  const choice = choices[place];
  if (!choice) return;
  dialog.close();
  choice.choose();
};

/** Ask the server for services: an installation can have thousands. */
const find = async () => {
  const own = ++asked;
  try {
    const answer = await fetch(`${dialog.dataset.services}?q=${encodeURIComponent(input.value.trim())}`);
    if (!answer.ok || own !== asked) return;
    services = (await answer.json()).services;
  } catch {
    services = []; // the palette still lists pages
  }
  const before = at;
  show();
  at = Math.min(before, Math.max(0, choices.length - 1));
  point();
};

let timer = 0;
input.addEventListener("input", () => {
  show();
  clearTimeout(timer);
  timer = setTimeout(find, SEARCH_AFTER);
});
input.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) at = (at + step + choices.length) % Math.max(1, choices.length);
  else if (event.key !== "Enter") return;
  event.preventDefault();
  if (step) point();
  else choose(at);
});
