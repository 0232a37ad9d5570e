// Elements, words and numbers for the page. Text always goes in as text, never as markup.

/** An element with attributes (`on` holds listeners, true and false set and leave out) and children (strings become text). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Say something to a screen reader, without moving the focus. */
export function announce(text) {
  const live = byId("live");
  live.textContent = "";
  requestAnimationFrame(() => { live.textContent = text; });
}

let leaving;
/** Say something to everybody: a line at the foot of the window, which goes by itself. */
export function say(text, { failed = false } = {}) {
  const toast = byId("toast");
  toast.replaceChildren(element("p", { class: failed ? "failed" : null }, text));
  clearTimeout(leaving);
  leaving = setTimeout(() => toast.replaceChildren(), failed ? 9000 : 4500);
}

/** The name of an item without its category, which the server's words for an item add: "BANANAS · TROPICAL FRUIT". */
export const nameOf = (title) => String(title ?? "").split(" · ")[0];

const isShouting = (name) => name.length > 3 && name === name.toUpperCase() && /\p{Lu}{3}/u.test(name);

/** The name of an item as it is said within a message. */
export function spoken(title) {
  const name = nameOf(title);
  return isShouting(name) ? name[0] + name.slice(1).toLowerCase() : name;
}

/** The name of an item; one in capitals only is set in sentence case by the style sheet, its text kept. */
export function titled(title, tag = "span") {
  const name = nameOf(title);
  return element(tag, { class: isShouting(name) ? "title shouting" : "title", title: title === name ? null : title }, name);
}

const whole = new Intl.NumberFormat("en-GB");
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeZone: "UTC" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });

export const count = (number) => whole.format(number);
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits).replace("-", "−")} %`;
export const signed = (number, digits = 2) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(digits)}`;
export const decimal = (number, digits = 2) => number.toFixed(digits).replace("-", "−");
/** Unix seconds, or a text that a date can be read from, in UTC. */
export const asDate = (time) => (typeof time === "number" ? new Date(time * 1000) : new Date(time));
export const onDay = (time) => day.format(asDate(time));
export const atMoment = (time) => `${moment.format(asDate(time))} UTC`;
/** A name from a file as words: last_item is "last item". */
export const words = (name) => String(name).replaceAll("_", " ");

/** An id for an event or a click; sending it again records it once. `randomUUID` is missing on plain http beyond loopback. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What stands where an answer should: the message, how to mend it, and a way to try again. */
export function failure(error, again) {
  return element("div", { class: "failure", role: "alert" },
    element("p", { class: "failure-what" }, sentence(error.message)),
    error.fix ? element("p", {}, sentence(error.fix)) : null,
    again ? element("button", { type: "button", class: "quiet", on: { click: again } }, "Try again") : null);
}

/** The first letter a capital, and a full stop at the end. */
export function sentence(text) {
  const trimmed = String(text).trim();
  if (!trimmed) return "";
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

/** Grey bars of about the shape of what comes. */
export function skeleton(kind, number) {
  return element("div", { class: `skeleton ${kind}`, "aria-hidden": "true" },
    Array.from({ length: number }, () => element("span")));
}
