// Click-through: every piece of content relative to the best (the paper's Figure 5), then each slot with intervals and lifts.

import { get } from "./api.js";
import { byId, count, element, failure, percent, plural, sentence, skeleton, words } from "./dom.js";

export const loadReport = (signal, query = "") => get(`clicks/report${query}`, signal);

let asked = new AbortController();
let chosen = ""; // which impressions the visitor wants to see: "" for the real ones as soon as there are any

export async function openClicks() {
  asked.abort();
  asked = new AbortController();
  const box = byId("clicks-body");
  box.setAttribute("aria-busy", "true");
  if (!box.children.length) box.replaceChildren(skeleton("rows", 8));
  try {
    const [report, { slots }] = await Promise.all([loadReport(asked.signal, chosen), get("slots", asked.signal)]);
    const titles = new Map(slots.map((slot) => [slot.name, slot.title]));
    box.replaceChildren(...figures(report, (name) => titles.get(name) ?? words(name)));
  } catch (error) {
    if (error.name !== "AbortError") box.replaceChildren(failure(error, openClicks));
  } finally {
    box.removeAttribute("aria-busy");
  }
}

/** What stands under a slot: the click-through of its treatment so far. */
export function clickLine(report, slot, treatment) {
  const found = report.slots.find((one) => one.slot === slot)?.treatments.find((one) => one.treatment === treatment);
  if (!found?.impressions) return ["Not shown to anybody yet"];
  return [element("b", {}, percent(found.ctr)), ` ${report.simulated ? "simulated " : ""}click-through of ${words(treatment)}: ${plural(found.clicks, "click")}, shown ${plural(found.impressions, "time")}`];
}

function figures(report, titleOf) {
  const shown = report.slots.filter((slot) => slot.treatments.some((one) => one.impressions > 0));
  const again = element("button", { type: "button", class: "quiet", on: { click: openClicks } }, "Refresh");
  if (!shown.length) {
    return [element("div", { class: "empty" }, element("h2", {}, "Nothing shown yet"),
      element("p", {}, "Figures begin with the first slot that a visitor has had in view for a second. ",
        element("a", { href: "#/" }, "Open a visitor"), " or run the simulator.")), again];
  }
  return [
    kind(report),
    relative(shown, titleOf, report.confidence),
    element("h2", { class: "by-slot" }, "Slot by slot"),
    element("div", { class: "reports" }, shown.map((slot) => slotReport(slot, titleOf(slot.slot)))),
    element("div", { class: "foot" }, element("p", { class: "note" }, setAside(report.set_aside)), again),
  ].filter(Boolean);
}

/** Whether people or the simulator clicked, and the way to the other figures; the two are never counted together. */
function kind(report) {
  const others = report.set_aside[report.simulated ? "real_impressions" : "simulated_impressions"];
  const other = report.simulated ? "Show real clicks" : "Show simulated clicks";
  const change = others ? element("button", { type: "button", class: "quiet", on: { click: () => {
    chosen = `?simulated=${!report.simulated}`;
    openClicks();
  } } }, other) : null;
  if (!report.simulated) return change && element("p", { class: "notice" }, "These clicks are real. ", change);
  return element("p", { class: "notice" }, element("strong", {}, "Simulated: nobody saw these slots. "),
    "The clicks come from replaying the days after the training period, with a click where the visitor did buy. ", change ?? "");
}

/** A bar from 0 to `share` of the axis, the interval upon it, and a mark where the best stands; all in parts of the axis. */
function bar(treatment, share, low, high, best = 0) {
  const drawn = element("span", { class: `ctr-bar ${treatment}`, "aria-hidden": "true" }, element("i"), element("u"));
  drawn.style.setProperty("--share", share);
  drawn.style.setProperty("--best", best);
  drawn.style.setProperty("--low", Math.max(0, low));
  drawn.style.setProperty("--high", Math.min(1, high));
  return drawn;
}

function relative(slots, titleOf, confidence) {
  const bars = slots.flatMap((slot) => slot.treatments.filter((one) => one.impressions > 0)
    .map((one) => ({ ...one, slot: slot.slot }))).sort((one, other) => other.ctr - one.ctr);
  const best = bars[0].ctr;
  if (!best) return element("p", { class: "notice" }, "No clicks yet: the figure begins with the first.");
  // The axis ends at the next quarter above the longest interval that tells something; beyond twice the best it tells little.
  const end = Math.min(2, Math.ceil(4 * Math.max(...bars.map((one) => one.high / best))) / 4);
  return element("figure", { class: "figure5" },
    element("figcaption", {}, element("h2", {}, "Relative click-through of each piece of content"),
      element("p", { class: "note" }, `One bar a slot and treatment, the highest at 100 %. Thin lines are ${percent(confidence, 0)} intervals.`)),
    element("table", { class: "bars" },
      element("caption", { class: "sr" }, "Click-through relative to the highest"),
      element("thead", { class: "sr" }, element("tr", {}, ["Content", "Treatment", "Bar", "Relative"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, bars.map((one) => element("tr", {},
        element("th", { scope: "row" }, titleOf(one.slot)),
        element("td", { class: "of" }, element("span", { class: `treatment ${one.treatment}` }, words(one.treatment))),
        element("td", { class: "drawn" }, bar(one.treatment, one.ctr / best / end, one.low / best / end, one.high / best / end, 1 / end)),
        element("td", { class: "number" }, percent(one.ctr / best, 0)))))));
}

function slotReport(slot, title) {
  const tried = slot.treatments.filter((one) => one.impressions > 0).sort((one, other) => other.ctr - one.ctr);
  const end = Math.max(...tried.map((one) => one.high), Number.MIN_VALUE);
  return element("section", { class: "report", "aria-label": title },
    element("h3", {}, title),
    element("table", { class: "bars" },
      element("caption", { class: "sr" }, `Click-through in ${title}`),
      element("thead", { class: "sr" }, element("tr", {}, ["Treatment", "Bar", "Click-through", "Interval", "Clicks of times shown"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, tried.map((one) => element("tr", {},
        element("th", { scope: "row" }, element("span", { class: `treatment ${one.treatment}` }, words(one.treatment))),
        element("td", { class: "drawn" }, bar(one.treatment, one.ctr / end, one.low / end, one.high / end)),
        element("td", { class: "number" }, element("b", {}, percent(one.ctr))),
        element("td", { class: "note interval" }, `${(100 * one.low).toFixed(1)} to ${percent(one.high)}`),
        element("td", { class: "note counts" }, `${count(one.clicks)} of ${count(one.impressions)}`))))),
    slot.lifts?.length ? element("ul", { class: "lifts" }, slot.lifts.map(lift)) : null,
    slot.guidance ? element("p", { class: "note" }, sentence(slot.guidance)) : null);
}

const change = (share) => (share === null ? "unbounded" : `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(0)} %`);

function lift(one) {
  const certain = one.decided ? element("span", { class: "verdict-word decided" }, "decided") : element("span", { class: "verdict-word" }, "not decided yet");
  return element("li", {}, element("b", {}, words(one.treatment)), ` against ${words(one.against)}: `,
    one.lift === null ? "too few clicks to compare" : element("span", { class: "number" }, change(one.lift)),
    one.lift === null ? null : element("span", { class: "note" }, ` ${change(one.low)} to ${change(one.high)}`), " ", certain);
}

function setAside(aside = {}) {
  const told = Object.entries(aside).filter(([, number]) => number).map(([name, number]) => `${count(number)} ${words(name)}`);
  return told.length ? `Set aside: ${told.join(", ")}.` : "Nothing had to be set aside.";
}
