// Forms with data-watched show the number of changed fields at their foot, and ask before changes are lost.
import { $, $$ } from "./dom.js";

const hasChanged = (field) => {
  if (field.type === "hidden" || field.disabled || !field.name) return false;
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  if (field.tagName !== "SELECT") return field.value !== field.defaultValue;
  const options = [...field.options];
  const chosen = Math.max(0, options.findIndex((option) => option.defaultSelected)); // as the browser chooses
  return field.selectedIndex !== chosen;
};
const changesOf = (form) => new Set([...form.elements].filter(hasChanged).map((field) => field.name)).size;

const show = (form) => {
  const count = changesOf(form);
  const words = $("[data-changes]", form);
  if (words) words.textContent = count ? `${count} change${count === 1 ? "" : "s"}` : form.dataset.unsaved === undefined ? "" : "Not saved";
};

for (const type of ["input", "change"]) {
  document.addEventListener(type, ({ target }) => {
    const form = target.form?.closest("[data-watched]");
    if (form) show(form);
  });
}

addEventListener("beforeunload", (event) => {
  const isLeaving = (form) => form.dataset.sent !== "yes" && (form.dataset.unsaved !== undefined || changesOf(form));
  if ($$("form[data-watched]").some(isLeaving)) event.preventDefault();
});
$$("form[data-watched]").forEach(show);
