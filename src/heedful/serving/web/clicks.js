// Click-through: the results in words, every piece of content relative to the best (the paper's Figure 5), then each slot.

import { get } from "./api.js";
import { byId, count, element, failure, onDay, percent, plural, sentence, skeleton, words } from "./dom.js";
import { hue, named } from "./treatments.js";

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
  const again = element("button", { type: "button", class: "quiet", on: { click: openClicks } }, "Refresh");
  if (!report.slots.length) {
    return [element("div", { class: "empty" }, element("h2", {}, "Nothing shown yet"),
      element("p", {}, "Figures begin with the first slot that a visitor has had in view for a second. Previews of this page do not count.")), again];
  }
  return [
    kind(report),
    summary(report, titleOf),
    relative(report, titleOf),
    element("h2", { class: "by-slot" }, "Slot by slot"),
    element("div", { class: "reports" }, report.slots.map((slot) => slotReport(slot, report, titleOf(slot.slot)))),
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

// ------------------------------------------------------------------------------------------------- the results in words

const spaced = (said) => said.replace(/(\d)%/g, "$1 %");

const STATES = { mismatch: "Not to be trusted", decided: "Decided", early: "Too early", open: "Not decided yet", single: "No comparison" };

function stateOf(slot) {
  if (slot.split?.mismatch) return "mismatch";
  if (!slot.lifts.length) return "single";
  if (slot.lifts.some((one) => one.decided)) return "decided";
  return slot.lifts.every((one) => one.verdict === "too early") ? "early" : "open";
}

function summary(report, titleOf) {
  return element("section", { class: "summary", "aria-label": "Results in short" },
    element("h2", {}, "In short"),
    element("ul", {}, report.slots.map((slot) => {
      const state = stateOf(slot);
      const said = slot.summary.replace(/^(Too early|Not to be trusted): /, "");
      return element("li", { class: state },
        element("span", { class: "state" }, STATES[state]),
        element("span", {}, element("b", {}, `${titleOf(slot.slot)}: `), sentence(spaced(words(said)))));
    })));
}

// ---------------------------------------------------------------------------------------------------------- the figure

/** A bar from 0 to `share` of the axis, the interval upon it, and a mark where the best stands; all in parts of the axis. */
function bar(treatment, share, low, high, best = 0) {
  const drawn = element("span", { class: `ctr-bar ${hue(treatment)}`, "aria-hidden": "true" }, element("i"), element("u"));
  drawn.style.setProperty("--share", share);
  drawn.style.setProperty("--best", best);
  drawn.style.setProperty("--low", Math.max(0, low));
  drawn.style.setProperty("--high", Math.min(1, high));
  return drawn;
}

const shownIn = (slot) => slot.treatments.filter((one) => one.impressions > 0).sort((one, other) => other.ctr - one.ctr);

function relative(report, titleOf) {
  const all = report.slots.flatMap(shownIn);
  const best = Math.max(...all.map((one) => one.ctr));
  if (!best) return element("p", { class: "notice" }, "No clicks yet: the figure begins with the first.");
  // The axis ends at the next quarter above the longest interval that tells something; beyond twice the best it tells little.
  const end = Math.min(2, Math.ceil(4 * Math.max(...all.map((one) => one.high / best))) / 4);
  return element("figure", { class: "figure5" },
    element("figcaption", {}, element("h2", {}, "Click-through of each slot and treatment, relative to the highest"),
      element("p", { class: "note" }, `The highest is 100 % (dashed line). Thin lines are ${percent(report.confidence, 0)} intervals of one rate by itself; whether two differ is said under “Slot by slot”.`)),
    element("table", { class: "bars" },
      element("caption", { class: "sr" }, "Click-through relative to the highest, by slot"),
      element("thead", { class: "sr" }, element("tr", {}, ["Treatment", "Bar", "Relative", "Click-through and impressions"].map((name) => element("th", { scope: "col" }, name)))),
      report.slots.map((slot) => element("tbody", {},
        element("tr", { class: "group" }, element("th", { scope: "rowgroup", colspan: "4" }, titleOf(slot.slot))),
        shownIn(slot).map((one) => element("tr", {},
          element("th", { scope: "row" }, named(one.treatment)),
          element("td", { class: "drawn" }, bar(one.treatment, one.ctr / best / end, one.low / best / end, one.high / best / end, 1 / end)),
          element("td", { class: "number" }, percent(one.ctr / best, 0)),
          element("td", { class: "note counts" }, `${percent(one.ctr)} of ${count(one.impressions)}`)))))));
}

// ------------------------------------------------------------------------------------------------------- slot by slot

function slotReport(slot, report, title) {
  const earlier = report.earlier.filter((one) => one.slot === slot.slot);
  return element("section", { class: "report", "aria-label": title },
    element("h3", {}, title),
    element("p", { class: "note" }, `Since ${onDay(slot.begun)}, last shown ${onDay(slot.latest)}`),
    rates(shownIn(slot), title),
    slot.lifts.length ? lifts(slot) : null,
    slot.split ? split(slot.split) : element("p", { class: "note" }, "The declared shares were not recorded, so the split is not checked."),
    slot.guidance && !slot.split?.mismatch ? element("p", { class: "note" }, sentence(spaced(words(slot.guidance)))) : null,
    earlier.length ? element("details", {}, element("summary", {}, `${plural(earlier.length, "earlier experiment")} in this slot, not counted here`),
      earlier.map((one) => element("div", { class: "earlier" },
        element("p", { class: "note" }, `${onDay(one.begun)} to ${onDay(one.latest)}, salt ${one.salt}${sharesOf(one)}`), rates(shownIn(one), `${title}, earlier`)))) : null);
}

const sharesOf = ({ shares }) => (Object.keys(shares).length
  ? `, ${Object.entries(shares).map(([name, share]) => `${words(name)} ${percent(share, 0)}`).join(", ")}` : "");

function rates(tried, title) {
  return element("table", { class: "rates" },
    element("caption", { class: "sr" }, `Click-through in ${title}`),
    element("thead", {}, element("tr", {}, ["Treatment", "Click-through", "Clicked", "Users who clicked"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, tried.map((one) => element("tr", {},
      element("th", { scope: "row" }, named(one.treatment)),
      element("td", {}, element("b", {}, percent(one.ctr))),
      element("td", {}, `${count(one.clicks)} of ${count(one.impressions)}`),
      element("td", {}, `${count(one.users_who_clicked)} of ${count(one.users)}`)))));
}

const change = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(0)} %`;

/** Each lift with its interval on one axis around no difference: what is decided does not touch the line. */
function lifts(slot) {
  const told = slot.lifts.filter((one) => one.high !== null && one.verdict !== "withheld");
  // The axis holds every lift; what is longer than it ends with it.
  const reach = Math.max(0.2, ...told.map((one) => Math.max(1.25 * Math.abs(one.lift), Math.min(2, Math.max(-one.low, one.high)))));
  const at = (share) => 0.5 + Math.max(-0.5, Math.min(0.5, share / reach / 2));
  const row = (one) => {
    const known = told.includes(one);
    const line = element("span", { class: `lift-line ${hue(one.treatment)}`, "aria-hidden": "true" }, known ? element("u") : null, known ? element("i") : null);
    if (known) for (const [name, share] of [["--low", one.low], ["--high", one.high], ["--at", one.lift]]) line.style.setProperty(name, at(share));
    const verdict = { ahead: "higher: decided", behind: "lower: decided" }[one.verdict] ?? one.verdict;
    return element("tr", {},
      element("th", { scope: "row" }, named(one.treatment)),
      element("td", { class: "drawn" }, known ? line : null),
      element("td", { class: "number" }, known ? [element("b", {}, change(one.lift)), element("span", { class: "note" }, ` ${change(one.low)} to ${change(one.high)}`)] : null),
      element("td", { class: one.decided ? "verdict decided" : "verdict" }, verdict));
  };
  return element("table", { class: "lifts" },
    element("caption", {}, "Difference from ", named(slot.lifts[0].against), ", in per cent of its rate; the upright line is no difference"),
    element("thead", { class: "sr" }, element("tr", {}, ["Treatment", "Interval", "Difference", "Verdict"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, slot.lifts.map(row)));
}

function split(found) {
  const said = Object.entries(found.users).map(([name, number]) => `${words(name)} ${count(number)} (${count(Math.round(found.expected[name]))} expected)`).join(", ");
  if (!found.mismatch) return element("p", { class: "note" }, `Users are split as declared: ${said}.`);
  return element("div", { class: "failure" }, element("p", { class: "failure-what" }, "Users are not split by the declared shares."),
    element("p", {}, `${said}. Look for impressions that are lost or counted twice in one treatment: slow or broken pages, caches, redirects, bots. Mend it, and begin a new experiment with another salt.`));
}

const REASONS = { bots: "bots", impressions_of_bots: "impressions of bots", clicks_of_bots: "clicks of bots",
  further_clicks: "clicks on further items of an impression", repeated_clicks: "repeated clicks on one item" };

function setAside(aside = {}) {
  const told = Object.entries(aside).filter(([, number]) => number).map(([name, number]) => `${count(number)} ${REASONS[name] ?? words(name)}`);
  return told.length ? `Set aside: ${told.join(", ")}.` : "Nothing had to be set aside.";
}
