// Helpers for every module of the console.
export const $ = (selector, within = document) => within.querySelector(selector);
export const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
/** Read a value from local storage, or write one. Returns null where the browser refuses storage. */
export const stored = (key, value) => {
  try {
    return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value);
  } catch {
    return null;
  }
};
/** Whether this tab did not have this value yet; it has from now on. False where the browser refuses storage. */
export const isNews = (key, value) => {
  try {
    const isNew = sessionStorage.getItem(key) !== value;
    sessionStorage.setItem(key, value);
    return isNew;
  } catch {
    return false;
  }
};
/** The link in a row's first cell, which names the row and leads to it. */
export const rowLink = (row) => $(":scope > :is(:first-child, .pick + *) a[href]", row);
