// Why an item: the past items by what the score loses without each, and where every layer's attention went.

import { post } from "./api.js";
import { announce, count, decimal, element, failure, nameOf, percent, plural, sentence, signed, skeleton, titled, words } from "./dom.js";

const REST_MS = 140;
const FIRST = 8;
// More layers than this leave no room for a number in each cell.
const NUMBERED_LAYERS = 6;

/**
 * The panel beside the slots; on a narrow screen a sheet that an item's button opens.
 * Hover and focus show an item for as long as none is pinned; the button pins it, Escape and Close let it go.
 */
export function createPanel({ aside, body, heading, close }) {
  const wide = matchMedia("(min-width: 64rem)");
  const answers = new Map();
  let pinned = null;
  let current = null;
  let timer;

  const mark = (button) => {
    for (const other of document.querySelectorAll(".item-why[aria-expanded=true]")) other.setAttribute("aria-expanded", "false");
    button?.setAttribute("aria-expanded", "true");
  };

  async function show(button, request) {
    current = request;
    mark(button);
    const key = JSON.stringify([request.past, request.version, request.item.item_id]);
    if (!answers.has(key)) {
      if (answers.size > 200) answers.clear();
      answers.set(key, post("explain", { ...request.past, items: [request.item.item_id] }).then(({ explanations }) => explanations[0]));
      answers.get(key).catch(() => answers.delete(key));
      body.replaceChildren(head(request), skeleton("rows", 6));
    }
    try {
      const explanation = await answers.get(key);
      if (current !== request) return null;
      body.replaceChildren(head(request), ...reasons(explanation, request));
      return explanation;
    } catch (error) {
      if (current === request) body.replaceChildren(head(request), failure(error, () => show(button, request)));
      return null;
    }
  }

  function letGo({ focus }) {
    const button = pinned;
    pinned = null;
    aside.removeAttribute("data-pinned");
    if (!wide.matches) mark(null);
    if (focus && button?.isConnected) button.focus();
  }

  function attach(button, request) {
    const preview = () => {
      clearTimeout(timer);
      timer = setTimeout(() => { if (wide.matches && !pinned && current !== request) show(button, request); }, REST_MS);
    };
    button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") preview(); });
    button.addEventListener("pointerleave", () => clearTimeout(timer));
    button.addEventListener("focus", preview);
    button.addEventListener("click", async () => {
      clearTimeout(timer);
      pinned = button;
      aside.dataset.pinned = "true";
      const shown = show(button, request);
      heading.focus({ preventScroll: wide.matches });
      const explanation = await shown;
      if (explanation?.text) announce(sentence(explanation.text));
    });
    button.explain = () => show(button, request);
  }

  close.addEventListener("click", () => letGo({ focus: true }));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) letGo({ focus: true });
  });

  return {
    attach,
    /** Forget what is shown, as another visitor comes or the history grows. */
    clear() {
      letGo({ focus: false });
      current = null;
      body.replaceChildren(element("p", { class: "empty" }, "Hover over an item, focus on it or tap it."));
    },
    /** Explain the first item among `slots`, where there is room for it beside them. */
    suggest(slots) {
      if (wide.matches && !pinned && !document.activeElement?.closest("#slots .item")) slots.querySelector(".item-why")?.explain();
    },
  };
}

function head({ item, slot }) {
  return element("div", { class: "why-item" }, titled(item.title ?? item.item_id, "p"),
    element("p", { class: "note" }, `Place ${item.position} in ${slot.title ?? words(slot.slot)} · item ${item.item_id}`));
}

function reasons(explanation, { item, slot }) {
  if (!item.reason) return ofModel(explanation);
  return [
    element("p", { class: "why-text" }, sentence(`${words(slot.treatment)}: ${item.reason}`)),
    element("details", {}, element("summary", {}, "How the model would score it"), ofModel(explanation)),
  ];
}

function ofModel(explanation) {
  const said = explanation.text ? element("p", { class: "why-text" }, withTitles(sentence(explanation.text), explanation.because.map((reason) => nameOf(reason.title)))) : null;
  const past = [...explanation.because].sort((one, other) => Math.abs(other.fall) - Math.abs(one.fall));
  if (!past.length) {
    return [said, element("p", { class: "empty" }, "No past action that the model knows: the item stands here by its popularity alone."), parts(explanation)].filter(Boolean);
  }
  const box = element("div");
  const draw = (number) => box.replaceChildren(...[falls(explanation, past, number), heat(explanation, past, number),
    past.length > number ? element("button", { type: "button", class: "quiet", on: { click: () => {
      draw(past.length);
      box.querySelector("h3").focus({ preventScroll: true });
    } } }, `Show all ${count(past.length)} past items`) : null].filter(Boolean));
  draw(FIRST);
  return [said, parts(explanation), box].filter(Boolean);
}

const PARTS = { prior: "popularity over all time", popularity_over_time: "popularity of late", attention: "attention to the history",
  item_interactions: "goes with past items", user_tower: "the visitor's taste", averaging: "fits the history", match: "fits the history",
  ranker: "fits the history", cooccurrence: "taken together with past items", repeat: "taken before", kinds: "kinds of past actions", kind: "kinds of past actions", user: "the visitor's habits", popularity: "popularity" };

/** The terms that add up to the score. */
function parts(explanation) {
  const told = Object.entries(explanation.parts ?? {}).filter(([, value]) => Math.abs(value) >= 0.005);
  if (told.length < 2) return null;
  return element("div", {}, element("h3", {}, "What made the score"),
    element("dl", { class: "parts" }, told.sort(([, one], [, other]) => Math.abs(other) - Math.abs(one)).map(([name, value]) =>
      element("div", {}, element("dt", {}, PARTS[name] ?? words(name)), element("dd", {}, signed(value)))),
      element("div", { class: "sum" }, element("dt", {}, "score"), element("dd", {}, decimal(explanation.score)))));
}

/** A sentence whose titles are set like titles. */
function withTitles(text, titles) {
  const known = [...new Set(titles.filter(Boolean))].sort((one, other) => other.length - one.length);
  if (!known.length) return [text];
  const pattern = new RegExp(`(${known.map((title) => title.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`);
  return text.split(pattern).map((part) => (known.includes(part) ? titled(part) : part));
}

function falls(explanation, past, number) {
  const greatest = Math.max(...past.map((reason) => Math.abs(reason.fall)), Number.MIN_VALUE);
  const named = new Map();
  for (const { title } of past) named.set(title, (named.get(title) ?? 0) + 1);
  const rows = past.slice(0, number).map((reason) => {
    const bar = element("span", { class: reason.fall < 0 ? "bar against" : "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", Math.abs(reason.fall) / greatest);
    return element("li", {},
      element("span", { class: "what" }, titled(reason.title ?? reason.item_id),
        named.get(reason.title) > 1 && reason.title !== reason.item_id ? element("span", { class: "which" }, String(reason.item_id)) : null),
      element("span", { class: "value" }, signed(reason.fall)), bar);
  });
  return element("div", {},
    element("h3", { tabindex: "-1" }, "What the score would lose"),
    element("p", { class: "note" }, "Each bar: how far the score falls when all actions with that item are left out. Striped bars held it down."),
    element("ol", { class: "falls" }, rows));
}

const shortly = (number) => (number >= 9.95 ? number.toFixed(0) : number >= 0.05 ? number.toFixed(1) : "·");

function heat(explanation, past, number) {
  const layers = past[0].attention?.length ?? 0;
  if (!layers) return null;
  const depth = Array.from({ length: layers }, (_, layer) => layer);
  const total = ({ attention }) => attention.reduce((sum, weight) => sum + weight, 0);
  const drawn = [...past].sort((one, other) => total(other) - total(one));
  const others = drawn.slice(number);
  const rows = [
    ...drawn.slice(0, number).map((reason) => ({ head: titled(reason.title ?? reason.item_id), weights: reason.attention })),
    others.length ? { head: plural(others.length, "other item"), rest: true,
      weights: depth.map((layer) => others.reduce((sum, reason) => sum + reason.attention[layer], 0)) } : null,
    explanation.null_attention ? { head: "No past item", weights: explanation.null_attention, rest: true } : null,
  ].filter(Boolean);
  // What stands for many items would leave no colour for the others.
  const darkest = Math.max(...rows.filter((row) => !row.rest).flatMap((row) => row.weights), Number.MIN_VALUE);
  const cell = (weight) => {
    const made = element("td", { title: percent(weight) }, element("span", {}, shortly(100 * weight)));
    made.style.setProperty("--weight", Math.min(1, weight / darkest));
    return made;
  };
  return element("div", {},
    element("h3", {}, "Where attention went"),
    element("table", { class: layers > NUMBERED_LAYERS ? "heat compact" : "heat" },
      element("caption", {}, "Per cent of each layer's attention, the past items that drew most first. Each layer adds up to 100",
        explanation.null_attention ? "; “no past item” is what none of them drew." : "."),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Layer"),
        depth.map((layer) => element("th", { scope: "col" }, String(layer + 1))))),
      element("tbody", {}, rows.map((row) => element("tr", { class: row.rest ? "rest" : null },
        element("th", { scope: "row" }, row.head), row.weights.map(cell))))));
}
