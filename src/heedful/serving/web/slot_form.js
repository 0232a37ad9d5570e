// The form of the slots: fields for what the file declares, and what a change would show before it is saved.

import { element, percent, plural, titled, words } from "./dom.js";
import { named } from "./treatments.js";

const TREATMENTS = ["model", "popularity", "last_item", "editorial"];
const RULES = { popular: "most users", newest: "latest first", best_rated: "highest first", editorial: "the list alone", again: "seen before" };
const NEW = { name: "", title: "", where: "", rule: "popular", column: "", max_candidates: 500, shown: 8, at_most: {}, pinned: [],
  blocked: [], editorial: [], exclude_history: true, pool_gamma: 0, treatments: { model: 1 }, salt: "" };

let made = 0;

/** A labelled field; `read` gives its value as the declaration has it. */
function field(label, input, hint = null) {
  input.id = `field-${made += 1}`;
  return element("div", { class: "field" }, element("label", { for: input.id }, label), input, hint ? element("p", { class: "hint" }, hint) : null);
}

const text = (value) => Object.assign(element("input", { type: "text", autocomplete: "off", spellcheck: "false" }), { value });
const number = (value, least, most, step = 1) => Object.assign(element("input", { type: "number", min: least, max: most, step }), { value });
const lines = (value, rows = 2) => Object.assign(element("textarea", { rows, spellcheck: "false" }), { value });
const ids = (input) => input.value.split(/[\s,;]+/).filter(Boolean);

function choice(value, options) {
  const select = element("select", {}, Object.entries(options).map(([name, said]) => element("option", { value: name }, `${words(name)}: ${said}`)));
  select.value = value;
  return select;
}

function limits(input) {
  const pairs = input.value.split(/[,;\n]+/).map((part) => part.split("=").map((side) => side.trim())).filter(([name]) => name);
  return Object.fromEntries(pairs.map(([name, most]) => [name, Number(most)]));
}

/** The fields of one slot: {node, read, open}. */
function slotFields(slot, columns, remove) {
  const inputs = {
    name: text(slot.name), title: text(slot.title), where: lines(slot.where), rule: choice(slot.rule, RULES), column: text(slot.column),
    shown: number(slot.shown, 1, 500), max_candidates: number(slot.max_candidates, 1, 20000),
    at_most: text(Object.entries(slot.at_most).map(([name, most]) => `${name} = ${most}`).join(", ")),
    pinned: lines(slot.pinned.join(", ")), blocked: lines(slot.blocked.join(", ")), editorial: lines(slot.editorial.join(", ")),
    exclude_history: Object.assign(element("input", { type: "checkbox" }), { checked: slot.exclude_history }), salt: text(slot.salt),
  };
  const names = [...new Set([...Object.keys(slot.treatments), ...TREATMENTS])];
  const shares = new Map(names.map((name) => [name, number(Math.round(1e6 * (slot.treatments[name] ?? 0)) / 1e4, 0, 100, "any")]));
  const sum = element("p", { class: "hint", role: "status" });
  const total = () => [...shares.values()].reduce((all, input) => all + Number(input.value), 0);
  const check = () => {
    const differs = JSON.stringify(read().treatments) !== JSON.stringify(slot.treatments) || inputs.salt.value !== slot.salt;
    sum.textContent = Math.abs(total() - 100) > 1e-6 ? `The shares add up to ${percent(total() / 100)}; they need to be 100 %.`
      : slot.name && differs ? "Other shares or another salt begin a new experiment; the figures so far are kept apart." : "";
  };
  const read = () => ({
    name: inputs.name.value.trim(), title: inputs.title.value.trim(), where: inputs.where.value.trim(), rule: inputs.rule.value,
    column: inputs.column.value.trim(), shown: Number(inputs.shown.value), max_candidates: Number(inputs.max_candidates.value),
    at_most: limits(inputs.at_most), pinned: ids(inputs.pinned), blocked: ids(inputs.blocked), editorial: ids(inputs.editorial),
    exclude_history: inputs.exclude_history.checked, pool_gamma: slot.pool_gamma, salt: inputs.salt.value.trim(),
    treatments: Object.fromEntries([...shares].filter(([, input]) => Number(input.value) > 0).map(([name, input]) => [name, Number(input.value) / 100])),
  });
  const node = element("details", { class: "slot-form", open: !slot.name, on: { input: check } },
    element("summary", {}, element("b", {}, slot.title || slot.name || "New slot"),
      element("span", { class: "note" }, ` ${plural(slot.shown, "item")} · ${Object.entries(slot.treatments).map(([name, share]) => `${words(name)} ${percent(share, 0)}`).join(", ")}`)),
    element("div", { class: "fields" },
      field("Title", inputs.title), field("Name in addresses", inputs.name, "Letters, digits, - and _"),
      element("div", { class: "wide" }, field("Which items are eligible", inputs.where,
        ["A condition on ", ...columns.flatMap((name, at) => [at ? ", " : "", element("code", {}, name)]), "; empty: every item"])),
      field("Candidates", inputs.rule), field("Column to sort by", inputs.column, "For newest and best rated"),
      field("Items shown", inputs.shown), field("At most", inputs.at_most, "Such as category = 2, brand = 1"),
      element("div", { class: "wide" }, element("fieldset", {}, element("legend", {}, "Treatments, in per cent of the visitors"),
        element("div", { class: "shares" }, [...shares].map(([name, input]) => field(named(name), input))), sum)),
      element("div", { class: "wide" }, field("Editors' list, in order", inputs.editorial)),
      field("Pinned first", inputs.pinned), field("Never shown", inputs.blocked),
      field("Candidates at most", inputs.max_candidates), field("Salt", inputs.salt, "Another salt deals all visitors anew"),
      element("div", { class: "wide check" }, element("label", {}, inputs.exclude_history, " Leave out what the visitor has had"))),
    element("div", { class: "buttons" }, element("button", { type: "button", class: "quiet", on: { click: () => remove(node) } }, "Remove this slot")));
  return { node, read };
}

/** Draw the form into `box`; answers {read: () => slots, point: (message) => void}. */
export function slotForm(box, slots, columns, changed) {
  let parts = [];
  const remove = (node) => {
    parts = parts.filter((part) => part.node !== node);
    node.remove();
    changed();
  };
  const add = (slot) => {
    const part = slotFields({ ...NEW, ...slot }, columns, remove);
    parts.push(part);
    list.append(part.node);
    return part;
  };
  const list = element("div", { class: "slot-forms", on: { input: changed } });
  box.replaceChildren(list, element("button", { type: "button", class: "quiet", on: { click: () => {
    const { node } = add({});
    changed();
    node.querySelector("input").focus();
  } } }, "Add a slot"));
  for (const slot of slots) add(slot);
  return {
    read: () => parts.map((part) => part.read()),
    point(message) {
      const found = /slots? ["'“‘]?([\w-]+)["'”’]?/i.exec(message);
      for (const part of parts) {
        const wrong = found && part.read().name === found[1];
        part.node.classList.toggle("wrong", Boolean(wrong));
        if (wrong) part.node.open = true;
      }
    },
  };
}

/** What declarations would show: a column of items for each treatment of each slot. */
export function previewed({ slots, shown, notes }) {
  return [...notes.map((note) => element("p", { class: "note" }, note)),
    ...slots.map((slot) => element("section", { class: "previewed", "aria-label": `Preview of ${slot.title}` }, element("h3", {}, slot.title),
      element("div", { class: "preview-columns" }, shown.filter((one) => one.slot === slot.name).map((one) => element("div", {},
        element("p", { class: "note" }, named(one.treatment), ` ${percent(one.share, 0)}`),
        one.items.length ? element("ol", { class: "preview-items" }, one.items.map((item) => element("li", {}, titled(item.title))))
          : element("p", { class: "empty" }, "Nothing to show."))))))];
}
