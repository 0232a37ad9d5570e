// Facts about the model, its training log and the database.

import { get } from "./api.js";
import { asDate, atMoment, byId, count, element, failure, onDay, skeleton, words } from "./dom.js";

let asked = new AbortController();

export async function openModel() {
  asked.abort();
  asked = new AbortController();
  const box = byId("model-body");
  if (!box.children.length) box.replaceChildren(skeleton("rows", 8));
  try {
    const { store, training, problems, last_time: lastTime, ...model } = await get("model", asked.signal);
    box.replaceChildren(...Object.entries(problems ?? {}).map(([what, problem]) => failure(
      { message: `${words(what)}: ${problem}`, fix: "What was there before goes on until this is mended" })), group("Model", model), training ? group("Training log", { ...training, last_time: training.last_time ?? lastTime }) : "", store ? group("Database", store) : "");
  } catch (error) {
    if (error.name !== "AbortError") box.replaceChildren(failure(error, openModel));
  }
}

const LABELS = { n_events: "events", n_users: "users", n_items: "items", first_time: "first event", last_time: "last event",
  kinds: "kinds of event", columns: "known of items", explains: "item vectors", schema: "version of its tables" };

const group = (title, facts) => element("section", { class: "facts", "aria-label": title }, element("h2", {}, title), list(facts));

function list(facts) {
  return element("dl", {}, Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => element("div", {}, element("dt", {}, LABELS[name] ?? words(name)), element("dd", {}, shown(name, value)))));
}

const TIMES = /(^|_)(time|first|last|since|until|start|end|trained|started|loaded)($|_|at)/;
const LONG_AGO = 1e8;

function shown(name, value) {
  if (Array.isArray(value)) return value.length ? value.map(words).join(", ") : "none";
  if (typeof value === "object") return list(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") {
    if (TIMES.test(name) && value > LONG_AGO) return onDay(value);
    return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
  }
  if (/^\d{4}-\d\d-\d\dT/.test(value)) return Number.isNaN(asDate(value).getTime()) ? value : atMoment(value);
  return /^[0-9a-f]{16,}$/.test(value) ? element("code", {}, value) : String(value);
}
