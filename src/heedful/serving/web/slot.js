// One content slot: its items as tiles, when it counts as shown, and what is clicked.

import { post } from "./api.js";
import { element, failure, nameOf, newId, say, sentence, spoken, titled, words } from "./dom.js";
import { hue } from "./treatments.js";

// Shown as display advertising counts it (Media Rating Council): half of it in view for one second.
const SHOWN_SHARE = 0.5;
const SHOWN_MS = 1000;
const STEPS = Array.from({ length: 21 }, (_, step) => step / 20);

/**
 * @param answer of GET /slots/NAME
 * @param before Map of item id to its former place in this slot, undefined the first time
 * @param page {panel, context, test (what a test has written; null in a preview), recorded, bought, again, asked (the treatment)}
 */
export function renderSlot(answer, before, page) {
  const name = answer.slot;
  const heading = element("h2", { id: `slot-${name}` }, answer.title ?? words(name));
  const slot = element("section", { class: "slot", "aria-labelledby": heading.id },
    element("header", {}, heading, answer.treatment
      ? element("p", { class: "chosen" }, "chosen by ", element("b", { class: `treatment ${hue(answer.treatment)}` }, words(answer.treatment)),
        page.asked && page.asked !== answer.treatment ? ` (no ${words(page.asked)} here)` : "") : null),
    answer.items.length
      ? element("ol", { class: "items" }, answer.items.map((item) => tile(item, answer, before, page)))
      : element("p", { class: "empty" }, "Nothing to show: no item meets this slot's condition and is new to the visitor."),
    answer.note ? failure({ message: answer.note }, page.again) : null,
    answer.treatment && answer.items.length
      ? element("p", { class: "slot-clicks", "data-slot": name, "data-treatment": answer.treatment }) : null);
  if (answer.impression_id) whenShown(slot, () => markShown(answer, page));
  return slot;
}

function tile(item, answer, before, page) {
  const title = spoken(item.title ?? item.item_id);
  const request = { ...page.context(), item, slot: answer };
  const why = element("button", { type: "button", class: "item-why", "aria-expanded": "false", "aria-controls": "why",
    "aria-label": `${title}, place ${item.position}: why this item`, "data-item": item.item_id },
    element("span", { class: "place" }, String(item.position), moved(item, before)),
    titled(item.title ?? item.item_id), element("span", { class: "note" }, detail(item)));
  page.panel.attach(why, request);
  return element("li", { class: "item" }, why,
    element("div", { class: "actions" },
      answer.impression_id ? clickButton(item, answer, page) : null,
      // Where the impression could not be written, a purchase would follow from nothing that is stored.
      answer.note ? null : page.test ? element("button", { type: "button", class: "act", "aria-label": `Store a purchase of ${title}`,
        on: { click: () => page.bought(item) } }, "Store purchase")
        : element("button", { type: "button", class: "act", "aria-label": `What if they bought ${title}`,
          on: { click: () => page.bought(item) } }, "What if bought")));
}

/** Words that tell the item from others of its name. */
function detail(item) {
  const told = Object.values(item.attributes ?? {}).filter((value) => typeof value === "string" && value && value !== nameOf(item.title));
  return item.title?.split(" · ")[1] ?? told[0] ?? `item ${item.item_id}`;
}

function moved(item, before) {
  if (!before) return null;
  const from = before.get(item.item_id);
  if (from === undefined) return element("span", { class: "moved" }, "new");
  const up = from - item.position;
  if (!up) return null;
  return element("span", { class: up > 0 ? "moved" : "moved down", "aria-label": `${up > 0 ? "up" : "down"} ${Math.abs(up)}`, role: "img" },
    `${up > 0 ? "↑" : "↓"}${Math.abs(up)}`);
}

function clickButton(item, answer, page) {
  const title = spoken(item.title ?? item.item_id);
  const clickId = newId();
  const button = element("button", { type: "button", class: "click", "aria-label": `Click ${title}` }, "Click");
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    try {
      const { outcome } = await post("clicks", { impression_id: answer.impression_id, item_id: item.item_id, click_id: clickId });
      const recorded = outcome === "recorded" || outcome === "duplicate";
      button.textContent = recorded ? "Clicked" : words(outcome);
      button.classList.toggle("done", recorded);
      say(recorded ? `Click on ${title} recorded.` : `Not counted: ${words(outcome)}.`, { failed: !recorded });
      page.recorded();
    } catch (error) {
      button.removeAttribute("aria-disabled");
      say(sentence(error.message), { failed: true });
    }
  });
  return button;
}

/** Report the impression as shown, once; whether that is done. */
async function markShown(answer, page) {
  if (!page.test.impressions.has(answer.impression_id)) return true; // taken back meanwhile
  answer.shown ??= post("impressions", { impression_id: answer.impression_id });
  try {
    await answer.shown;
    page.recorded();
    return true;
  } catch {
    answer.shown = undefined;
    return false;
  }
}

/** Call `report` once half of `slot`, or half of the window by it, has been in view for a second; again when it answers false. */
function whenShown(slot, report) {
  let timer;
  const observer = new IntersectionObserver(([entry]) => {
    const window = entry.rootBounds?.height ?? innerHeight;
    const seen = entry.intersectionRatio >= SHOWN_SHARE || entry.intersectionRect.height >= SHOWN_SHARE * window;
    if (!seen) {
      clearTimeout(timer);
      timer = undefined;
    } else timer ??= setTimeout(settle, SHOWN_MS);
  }, { threshold: STEPS });
  const settle = async () => {
    timer = undefined;
    if (!slot.isConnected) return observer.disconnect();
    if (document.visibilityState === "visible" && await report()) {
      slot.dataset.shown = "true";
      return observer.disconnect();
    }
    timer = setTimeout(settle, SHOWN_MS);
    return undefined;
  };
  observer.observe(slot);
}
