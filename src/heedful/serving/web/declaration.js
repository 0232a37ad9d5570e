// The slots' TOML file: read, changed here, checked and kept by the server.

import { get, getText, putText } from "./api.js";
import { byId, element, failure, plural, sentence } from "./dom.js";

const text = byId("declaration-text");
const lines = byId("declaration-lines");
const state = byId("declaration-state");
let saved = null;

export async function openDeclaration() {
  if (saved !== null && text.value !== saved) return; // what was typed stays
  state.replaceChildren();
  try {
    saved = await getText("slots.toml");
    text.value = saved;
    number();
    await help();
  } catch (error) {
    state.replaceChildren(failure(error, openDeclaration));
  }
}

/** What a condition may name, and the words of the file. */
async function help() {
  const { columns } = await get("model");
  byId("declaration-help").replaceChildren(...[
    ["where", ["A condition on ", ...columns.flatMap((name, at) => [at ? ", " : "", element("code", {}, name)])]],
    ["rule", "How candidates are chosen: popular, newest, best_rated or editorial"],
    ["treatments", "What is compared, with shares of the visitors that add up to 1: model, popularity, last_item, editorial"],
  ].map(([name, said]) => element("p", { class: "note" }, element("b", {}, name), said)));
}

function number(wrong = null) {
  const total = text.value.split("\n").length;
  lines.replaceChildren(...Array.from({ length: total }, (_, at) => element("span", { class: at + 1 === wrong ? "wrong" : null }, String(at + 1))));
  lines.scrollTop = text.scrollTop;
}

/** The line that a message speaks of, marked and shown; messages of other kinds name the slot instead. */
function pointAt(message) {
  const named = /\bline (\d+)/i.exec(message);
  const slot = /slots? ["'“‘]?([\w-]+)["'”’]?/i.exec(message);
  const rows = text.value.split("\n");
  const wrong = named ? Number(named[1])
    : slot ? rows.findIndex((row) => /^\s*name\s*=/.test(row) && row.includes(`"${slot[1]}"`)) + 1 : 0;
  number(wrong || null);
  if (!wrong) return;
  const from = rows.slice(0, wrong - 1).reduce((total, row) => total + row.length + 1, 0);
  text.focus();
  text.scrollTop = Math.max(0, wrong - 4) * parseFloat(getComputedStyle(text).lineHeight);
  text.setSelectionRange(from, from + (rows[wrong - 1]?.length ?? 0));
}

async function save(event) {
  event?.preventDefault();
  text.removeAttribute("aria-invalid");
  state.replaceChildren(element("p", { class: "note" }, "Checking…"));
  try {
    const sent = text.value;
    const answer = await putText("slots", sent, "application/toml");
    saved = sent;
    number();
    const declared = Array.isArray(answer.slots) ? answer.slots.length : answer.slots;
    state.replaceChildren(element("p", { class: "success" }, `Saved${declared === undefined ? "" : `: ${plural(declared, "slot")}`}. The next visitor gets them.`),
      ...(answer.notes ?? []).map((note) => element("p", { class: "note" }, sentence(note))));
  } catch (error) {
    text.setAttribute("aria-invalid", "true");
    state.replaceChildren(failure(error));
    pointAt(error.message);
  }
}

byId("declaration").addEventListener("submit", save);
byId("declaration-revert").addEventListener("click", () => {
  text.value = saved ?? "";
  text.removeAttribute("aria-invalid");
  state.replaceChildren(element("p", { class: "note" }, "As it was saved last."));
  number();
});
text.addEventListener("input", () => number());
text.addEventListener("scroll", () => { lines.scrollTop = text.scrollTop; });
text.addEventListener("keydown", (event) => {
  if (event.key === "s" && (event.ctrlKey || event.metaKey)) save(event);
});
window.addEventListener("beforeunload", (event) => {
  if (saved !== null && text.value !== saved) event.preventDefault();
});
