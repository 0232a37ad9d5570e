// The slots: a form, the TOML file behind it, and its versions. The server checks every change before it takes effect.

import { get, getVersion, postText, putText } from "./api.js";
import { atMoment, byId, element, failure, plural, sentence } from "./dom.js";
import { previewed, slotForm } from "./slot_form.js";

const text = byId("declaration-text");
const lines = byId("declaration-lines");
const state = byId("declaration-state");
const TABS = ["form", "file", "versions"];
let saved = null; // {text, etag} as the server has it
let form = null;
let formChanged = false;

const changedFile = () => saved !== null && text.value !== saved.text;

export async function openDeclaration() {
  if (changedFile() || formChanged) return; // what was typed stays
  state.replaceChildren();
  await load();
}

async function load() {
  try {
    const [version, { slots }, { columns }] = await Promise.all([getVersion("slots.toml"), get("slots"), get("model")]);
    saved = version;
    text.value = saved.text;
    number();
    help(columns);
    formChanged = false;
    form = slotForm(byId("slot-forms"), slots, columns, () => { formChanged = true; });
    byId("comments").hidden = !/^\s*#/m.test(saved.text);
    byId("declaration-actions").inert = false;
    await showVersions();
  } catch (error) {
    state.replaceChildren(failure(error, openDeclaration));
  }
}

function show(tab) {
  for (const name of TABS) {
    byId(`tab-${name}`).setAttribute("aria-pressed", String(name === tab));
    byId(`panel-${name}`).hidden = name !== tab;
  }
  byId("declaration-actions").hidden = tab === "versions";
}

const tabOf = () => TABS.find((name) => byId(`tab-${name}`).getAttribute("aria-pressed") === "true");

/** What is to be checked or saved: the file as it is typed, or the form as JSON. */
const declared = () => (tabOf() === "file" ? [text.value, "application/toml"] : [JSON.stringify({ slot: form.read() }), "application/json"]);

async function showVersions() {
  const { versions } = await get("slots.toml/versions");
  byId("panel-versions").replaceChildren(versions.length
    ? element("ol", { class: "versions" }, versions.map((one, place) => element("li", {},
      element("details", {}, element("summary", {}, element("b", {}, atMoment(one.time)),
        element("span", { class: "note" }, ` ${one.author ? `by ${one.author}` : ""} ${place ? "" : "· the latest"}`)),
      element("pre", {}, one.text)),
      element("button", { type: "button", class: "quiet", on: { click: () => restore(one) } }, "Open in the editor"))))
    : element("p", { class: "empty" }, "No versions yet: each change that is saved here becomes one."));
}

function restore(version) {
  text.value = version.text;
  number();
  show("file");
  text.focus();
  state.replaceChildren(element("p", { class: "note" }, `The version of ${atMoment(version.time)}, not saved yet.`));
}

/** What a condition may name, and the words of the file. */
function help(columns) {
  byId("declaration-help").replaceChildren(...[
    ["where", ["A condition on ", ...columns.flatMap((name, at) => [at ? ", " : "", element("code", {}, name)])]],
    ["rule", "How candidates are chosen: popular, newest, best_rated, editorial or again"],
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

async function attempt(said, work) {
  text.removeAttribute("aria-invalid");
  form.point("");
  state.replaceChildren(element("p", { class: "note" }, said));
  try {
    await work();
  } catch (error) {
    state.replaceChildren(failure(error));
    if (tabOf() === "form") return form.point(error.message);
    text.setAttribute("aria-invalid", "true");
    pointAt(error.message);
  }
  return undefined;
}

function save(event) {
  event?.preventDefault();
  return attempt("Checking…", async () => {
    const answer = await putText("slots", ...declared(), saved.etag);
    text.value = saved.text;
    formChanged = false;
    const tab = tabOf();
    await load();
    show(tab);
    byId("slot-preview").replaceChildren();
    state.replaceChildren(element("p", { class: "success" }, `Saved: ${plural(answer.slots.length, "slot")}. The next visitor gets them.`),
      ...(answer.notes ?? []).map((note) => element("p", { class: "note" }, sentence(note))));
  });
}

function preview() {
  return attempt("Looking…", async () => {
    const user = byId("preview-user").value.trim();
    const answer = await postText(`slots.toml/preview${user ? `?user=${encodeURIComponent(user)}` : ""}`, ...declared());
    byId("slot-preview").replaceChildren(element("h2", { tabindex: "-1" }, user ? `What ${user} would see` : "What a new visitor would see"), ...previewed(answer));
    state.replaceChildren(element("p", { class: "note" }, "Nothing is saved by a preview."));
    byId("slot-preview").querySelector("h2").focus();
  });
}

function revert() {
  text.value = saved?.text ?? "";
  formChanged = false;
  text.removeAttribute("aria-invalid");
  load();
  state.replaceChildren(element("p", { class: "note" }, "As it was saved last."));
  number();
}

byId("declaration").addEventListener("submit", save);
byId("declaration-revert").addEventListener("click", revert);
byId("declaration-preview").addEventListener("click", preview);
for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => show(name));
text.addEventListener("input", () => number());
text.addEventListener("scroll", () => { lines.scrollTop = text.scrollTop; });
text.addEventListener("keydown", (event) => {
  if (event.key === "s" && (event.ctrlKey || event.metaKey)) save(event);
});
window.addEventListener("beforeunload", (event) => {
  if (changedFile() || formChanged) event.preventDefault();
});
