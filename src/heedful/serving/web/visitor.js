// One visitor, by id or by a pasted history: their past, their slots, and what their actions change at once.

import { get, path, post, quoted, remove } from "./api.js";
import { clickLine, loadReport } from "./clicks.js";
import { combobox } from "./combobox.js";
import { byId, count, element, failure, newId, onDay, plural, say, sentence, skeleton, spoken, titled, words } from "./dom.js";
import { createPanel } from "./explanation.js";
import { renderSlot } from "./slot.js";

const HISTORY_LIMIT = 200;
// Ids in one look-up, so that its address stays short.
const LOOKED_UP = 100;
const narrow = matchMedia("(max-width: 63.99rem)");

// What the page shows now. `version` grows with each action of the visitor, so that no older explanation is shown.
// `supposed` are items of which a preview asks what if they were bought; `asked` is the treatment to look at, "" for the own.
const shown = { visitor: null, version: 0, places: new Map(), asked: "", supposed: [] };
// What a test has written, and what it has asked for, so that all can be taken back; null while the page only looks, as it does
// by default.
let test = null;
// A pasted history belongs to nobody; as one guest it stays in its treatments while this page is open.
const guest = `guest-${newId()}`;
let asked = new AbortController();
const panel = createPanel({ aside: byId("why"), body: byId("why-body"), heading: byId("why-heading"), close: byId("why-close") });

const address = (visitor) => (visitor.history
  ? `#/history/${visitor.history.map(encodeURIComponent).join(",")}`
  : `#/user/${encodeURIComponent(visitor.user)}`);
const go = (visitor) => { location.hash = address(visitor); };

/** Show a visitor: {user}, {history: ids, oldest first}, or null for the start. */
export async function openVisitor(visitor) {
  asked.abort();
  asked = new AbortController();
  const same = shown.visitor && visitor && address(shown.visitor) === address(visitor);
  if (!same) {
    shown.places.clear();
    shown.supposed = [];
  }
  shown.visitor = visitor;
  shown.version += 1;
  panel.clear();
  byId("visit").hidden = !visitor;
  byId("welcome").hidden = Boolean(visitor);
  closePaste();
  if (!visitor) return welcome(asked.signal);
  byId("visitor-heading").textContent = visitor.user ? `Visitor ${visitor.user}` : "A pasted history";
  byId("visitor-facts").replaceChildren();
  labelSearch();
  return refresh();
}

const labelSearch = () => { byId("item-search-label").textContent = test && shown.visitor.user ? "Store an action" : "What if they had"; };

async function refresh() {
  const { signal } = asked;
  await Promise.all([refreshPast(signal), refreshSlots(signal)]);
}

// ---------------------------------------------------------------------------------------------------------- the start

async function welcome(signal) {
  const box = byId("welcome");
  byId("visitor-heading").textContent = "Who is visiting?";
  byId("visitor-facts").textContent = "See what each content slot holds for a visitor, why, and what is clicked.";
  box.replaceChildren(skeleton("rows", 6));
  try {
    const [{ users }, { slots }] = await Promise.all([get("users?limit=8", signal), get("slots", signal)]);
    box.replaceChildren(users.length
      ? element("div", {}, element("h2", {}, "Some visitors"),
        element("ul", { class: "people" }, users.map((user) => element("li", {},
          element("a", { href: address({ user: user.user_id }) }, element("span", { class: "who" }, user.user_id),
            element("span", { class: "note" }, plural(user.actions, "action")))))))
      : element("div", { class: "empty" }, element("h2", {}, "No histories yet"),
        element("p", {}, "The database holds no actions. Type any user id to begin as a new visitor, or paste a history.")),
      slots.length ? element("div", { class: "served" }, element("h2", {}, "The slots they see"),
        element("ul", { class: "people roomy" }, slots.map((slot) => element("li", {}, element("a", { href: "#/slots" },
          element("span", {}, slot.title ?? slot.name), element("span", { class: "note" }, plural(slot.shown, "item"))))))) : "");
  } catch (error) {
    if (error.name !== "AbortError") box.replaceChildren(failure(error, () => welcome(asked.signal)));
  }
}

// ----------------------------------------------------------------------------------------------------------- the past

async function pastOf(visitor, signal) {
  if (visitor.user) return (await get(`${path("users", visitor.user, "history")}?limit=${HISTORY_LIMIT}`, signal)).history;
  if (!visitor.history.length) return [];
  const ids = [...new Set(visitor.history)];
  const parts = Array.from({ length: Math.ceil(ids.length / LOOKED_UP) }, (_, part) => ids.slice(LOOKED_UP * part, LOOKED_UP * (part + 1)));
  const found = await Promise.all(parts.map((part) => get(`items?ids=${part.map((id) => encodeURIComponent(quoted(id))).join(",")}`, signal)));
  const known = new Map(found.flatMap(({ items }) => items.map((item) => [String(item.item_id), item])));
  return visitor.history.map((id, place) => ({ item_id: id, title: known.get(id)?.title, place, unknown: !known.has(id) })).reverse();
}

async function refreshPast(signal) {
  const box = byId("past-items");
  const { visitor, version } = shown;
  if (!box.children.length) box.replaceChildren(skeleton("rows", 5));
  try {
    const past = await pastOf(visitor, signal);
    if (version !== shown.version) return;
    byId("visitor-facts").textContent = factsOf(visitor, past);
    showPast(box, visitor, [...shown.supposed.map((item, place) => ({ ...item, supposed: true, place })).reverse(), ...past], narrow.matches ? 5 : 12);
  } catch (error) {
    if (error.name !== "AbortError") box.replaceChildren(failure(error, () => refreshPast(asked.signal)));
  }
}

function factsOf(visitor, past) {
  if (!past.length) return visitor.user ? "A new visitor: no actions yet, so slots are ranked by popularity." : "Empty: slots are ranked by popularity.";
  const unknown = past.filter((action) => action.unknown).length;
  const left = unknown ? `, ${unknown} unknown to the model and left out` : "";
  if (!visitor.user) return `${plural(past.length, "item")}${left}`;
  const number = past.length === HISTORY_LIMIT ? `The latest ${HISTORY_LIMIT} actions` : plural(past.length, "action");
  return `${number}, the last on ${onDay(past[0].timestamp)}`;
}

function showPast(box, visitor, past, limit) {
  if (!past.length) {
    box.replaceChildren(element("p", { class: "empty" }, "Nothing yet. Add an item and watch the slots change."));
    return;
  }
  const rows = past.slice(0, limit).map((action) => element("li", { class: action.unknown ? "unknown" : null },
    element("span", { class: "past-title" }, action.unknown ? action.item_id : titled(action.title ?? action.item_id)),
    element("span", { class: "note" }, action.supposed ? "what if" : action.unknown ? "unknown item" : visitor.user ? onDay(action.timestamp) : action.item_id),
    action.supposed ? element("button", { type: "button", class: "leave-out", "aria-label": `Leave out ${spoken(action.title ?? action.item_id)}`,
      on: { click: () => suppose(shown.supposed.filter((_, place) => place !== action.place)) } }, "×") : null,
    visitor.history ? element("button", { type: "button", class: "leave-out", "aria-label": `Leave out ${spoken(action.title ?? action.item_id)}`,
      on: { click: () => go({ history: visitor.history.filter((_, place) => place !== action.place) }) } }, "×") : null));
  const more = past.length - rows.length;
  box.replaceChildren(element("ol", { class: "past-list", "aria-label": "Past items, newest first" }, rows),
    more > 0 ? element("button", { type: "button", class: "quiet", on: { click: () => {
      showPast(box, visitor, past, past.length);
      box.querySelector("ol").tabIndex = -1;
      box.querySelector("ol").focus({ preventScroll: true });
    } } }, `Show ${count(more)} more`) : "");
}

// ---------------------------------------------------------------------------------------------------------- the slots

let turns = 0;

async function refreshSlots(signal) {
  const box = byId("slots");
  const turn = turns += 1;
  const stale = () => signal.aborted || turn !== turns; // slots that were asked for since are drawn instead
  box.setAttribute("aria-busy", "true");
  if (!box.children.length) box.replaceChildren(skeleton("tiles", 6), skeleton("tiles", 6));
  try {
    const { slots } = await get("slots", signal);
    if (!slots.length) {
      const listed = await withoutSlots(signal);
      return stale() ? undefined : box.replaceChildren(modeOf([]), ...listed);
    }
    const answers = await Promise.all(slots.map((slot) => fill(slot, signal)));
    const past = answers.find((one) => one.past)?.past ?? await asking(signal);
    if (stale()) return undefined;
    shown.past = past;
    const before = new Map(shown.places);
    const held = placeOfFocus(box);
    box.replaceChildren(modeOf(slots), ...answers.map(({ slot, answer, error }) => (error
      ? brokenSlot(slot, error)
      : drawSlot(answer, before.get(slot.name)))));
    held?.();
    panel.suggest(box);
    refreshLines();
  } catch (error) {
    if (!stale() && error.name !== "AbortError") box.replaceChildren(failure(error, () => refreshSlots(asked.signal)));
  } finally {
    if (!stale()) box.removeAttribute("aria-busy");
  }
  return undefined;
}

/** Who works by keyboard keeps their place among the controls and tiles as these are drawn anew. */
function placeOfFocus(box) {
  const control = document.activeElement?.closest("#slots .mode [id]");
  if (control) return () => (byId(control.id) ?? byId("test-mode")).focus({ preventScroll: true });
  const slot = document.activeElement?.closest("#slots .slot");
  if (!slot) return null;
  const row = [...slot.querySelectorAll(".item")].indexOf(document.activeElement.closest(".item"));
  return () => {
    const tiles = document.getElementById(slot.getAttribute("aria-labelledby"))?.closest(".slot").querySelectorAll(".item-why") ?? [];
    (tiles[row] ?? tiles[0])?.focus({ preventScroll: true });
    box.removeAttribute("aria-busy");
  };
}

/** The past that rankings are asked with: that of the user, with what a preview supposes, or the pasted one. */
async function asking(signal) {
  const { visitor, supposed } = shown;
  if (!visitor.user) return { history: visitor.history };
  if (!supposed.length) return { user_id: visitor.user };
  const known = (await get(`${path("users", visitor.user, "history")}?limit=${HISTORY_LIMIT}`, signal)).history.reverse();
  const now = Math.floor(Date.now() / 1000);
  return { history: [...known, ...supposed].map((action) => action.item_id),
    history_times: [...known.map((action) => action.timestamp), ...supposed.map(() => now)],
    history_kinds: [...known.map((action) => action.event), ...supposed.map(() => null)] };
}

async function fill(slot, signal) {
  const { visitor } = shown;
  const treatment = slot.treatments[shown.asked] === undefined ? null : shown.asked;
  try {
    const past = await asking(signal);
    const asks = { ...past, visitor: visitor.user ?? guest };
    const address = path("slots", slot.name);
    if (!test) return { slot, past, answer: await post(address, { ...asks, preview: true, treatment }, signal) };
    const during = test;
    // What is written is written, whether this page still wants to see it or not.
    const answer = await writing(during, post(address, asks), ({ impression_id: id }) => id && during.impressions.add(id));
    return { slot, past, answer };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { slot, error };
  }
}

function drawSlot(answer, before) {
  shown.places.set(answer.slot, new Map(answer.items.map((item) => [item.item_id, item.position])));
  return renderSlot(answer, before, {
    panel, context: () => ({ past: shown.past, version: shown.version }), test, asked: shown.asked,
    recorded: refreshLines, bought: take, again: () => refreshSlots(asked.signal),
  });
}

const brokenSlot = (slot, error) => element("section", { class: "slot", "aria-label": slot.title },
  element("h2", {}, slot.title), failure(error, () => refreshSlots(asked.signal)));

async function withoutSlots(signal) {
  shown.past = await asking(signal);
  const { items } = await post("recommend", { ...shown.past, k: 12, offset: 0 }, signal);
  const answer = { slot: "catalogue", title: "The best of the catalogue", treatment: null, impression_id: null,
    items: items.map((item, place) => ({ position: place + 1, ...item })) };
  setTimeout(() => panel.suggest(byId("slots")));
  return [element("p", { class: "notice" }, "No content slots are declared yet. ", element("a", { href: "#/slots" }, "Declare some"),
    " to choose what they may hold and to measure their click-through. Until then:"), drawSlot(answer, shown.places.get("catalogue"))];
}

// ------------------------------------------------------------------------------------------------- previews and tests

/** What looking at this page does: nothing, unless a test is on by choice; and which treatment is looked at. */
function modeOf(slots) {
  const box = element("input", { type: "checkbox", id: "test-mode", on: { change: (event) => setTest(event.target.checked) } });
  box.checked = Boolean(test);
  const treatments = [...new Set(slots.flatMap((slot) => Object.keys(slot.treatments)))];
  const select = element("select", { id: "treatment", on: { change: (event) => {
    shown.asked = event.target.value;
    refreshSlots(asked.signal);
  } } }, element("option", { value: "" }, "the visitor's own"), treatments.map((name) => element("option", { value: name }, words(name))));
  select.value = shown.asked;
  const said = test
    ? "Test mode: slots in view count as shown, clicks and purchases are stored for this visitor."
    : "Preview: looking at this page records nothing.";
  return element("div", { class: test ? "mode testing" : "mode" },
    element("p", { class: "mode-said" }, said),
    test || !treatments.length ? null : element("label", { class: "mode-treatment" }, "Treatment ", select),
    element("label", { class: "mode-switch" }, box, " Test mode"),
    test ? element("button", { type: "button", class: "quiet", id: "undo", on: { click: undo } }, "Undo the test") : null);
}

const wrote = (one) => Boolean(one && (one.impressions.size || one.events.size || one.pending.size));

function setTest(on) {
  if (!on && wrote(test)) say("The test is over; what it wrote stays.");
  begin(on ? { impressions: new Set(), events: new Set(), pending: new Set() } : null);
}

function begin(next) {
  test = next;
  Object.assign(shown, { asked: "", supposed: [] });
  shown.version += 1;
  panel.clear();
  labelSearch();
  return refresh();
}

/** The answer to a request that writes for a test, after `note` has taken from it what is to be taken back. */
function writing(during, request, note = () => {}) {
  const noted = request.then((answer) => { note(answer); return answer; });
  during.pending.add(noted);
  return noted.finally(() => during.pending.delete(noted));
}

let undoing = null;

/** End the test, and take back all that it has written. */
async function undo() {
  undoing = test;
  say("Taking the test back…");
  begin(null); // from here on nothing is written
  try {
    while (undoing.pending.size) await Promise.allSettled([...undoing.pending]);
    for (const kind of ["impressions", "events"]) {
      for (const id of [...undoing[kind]]) {
        await remove(path(kind, id));
        undoing[kind].delete(id);
      }
    }
    await begin(null);
    say("Taken back: everything that the test has written.");
  } catch (error) {
    begin(undoing);
    say(sentence(error.message), { failed: true });
  } finally {
    undoing = null;
  }
}

window.addEventListener("beforeunload", (event) => {
  if (wrote(test) || wrote(undoing)) event.preventDefault();
});

let lines;
/** The click-through under each slot, after the server has taken what happened. */
function refreshLines() {
  clearTimeout(lines);
  lines = setTimeout(async () => {
    const places = [...document.querySelectorAll("#slots .slot-clicks[data-slot]")];
    if (!places.length) return;
    try {
      const report = await loadReport(asked.signal);
      for (const place of places) place.replaceChildren(...clickLine(report, place.dataset.slot, place.dataset.treatment));
    } catch {
      // The slots stand without their figures; a loss of the server is told by the notice on top.
    }
  }, 250);
}

// --------------------------------------------------------------------------------------------------------- the actions

// The server gives an action the kind that is most frequent in the training log.
let acting = false;
async function act(item) {
  if (acting) return;
  acting = true;
  const { user } = shown.visitor;
  const during = test;
  try {
    const event = { event_id: newId(), user_id: user, item_id: item.item_id };
    during.events.add(event.event_id); // it may be stored although no answer comes
    const { rejected } = await writing(during, post("events", { events: [event] }));
    if (rejected?.length) throw new Error(rejected[0].reason);
    shown.version += 1;
    panel.clear();
    await refresh();
    say(`${spoken(item.title ?? item.item_id)} is in the history now; the slots are ranked anew.`);
  } catch (error) {
    if (error.name !== "AbortError") say(sentence(error.message), { failed: true });
  } finally {
    acting = false;
  }
}

/** Look at the slots as if the visitor had bought these items too; nothing is stored. */
function suppose(items) {
  shown.supposed = items;
  shown.version += 1;
  panel.clear();
  return refresh();
}

/** An item was bought: stored in a test, supposed in a preview, and added to the address of a pasted history. */
function take(item) {
  if (!shown.visitor.user) return go({ history: [...shown.visitor.history, String(item.item_id)] });
  return test ? act(item) : suppose([...shown.supposed, item]);
}

// -------------------------------------------------------------------------------------------------------- the searches

combobox({
  input: byId("user-search"), list: byId("user-options"),
  load: async (text, signal) => (await get(`users?limit=12&prefix=${encodeURIComponent(text)}`, signal)).users
    .map((user) => ({ user: user.user_id, label: user.user_id, note: plural(user.actions, "action") })),
  choose: ({ user }) => go({ user }),
  enter: (user) => go({ user }),
  nothing: (text) => (text ? `Nobody begins with ${text}. Enter opens a new visitor.` : "No visitors yet. Type an id for a new one."),
});

combobox({
  input: byId("item-search"), list: byId("item-options"),
  load: async (text, signal) => (text ? (await get(`items?limit=12&search=${encodeURIComponent(text)}`, signal)).items : [])
    .map((item) => ({ item, label: titled(item.title ?? item.item_id), note: String(item.item_id) })),
  choose: ({ item }) => take(item),
  nothing: (text) => (text ? `No item matches ${text}.` : "Type a title or an id."),
});

function openPaste() {
  byId("paste").hidden = false;
  byId("paste-open").setAttribute("aria-expanded", "true");
  byId("paste-text").value = shown.visitor?.history?.join(", ") ?? "";
  byId("paste-error").textContent = "";
  byId("paste-text").focus();
}

function closePaste() {
  byId("paste").hidden = true;
  byId("paste-open").setAttribute("aria-expanded", "false");
}

byId("paste-open").addEventListener("click", () => (byId("paste").hidden ? openPaste() : closePaste()));
byId("paste-cancel").addEventListener("click", () => { closePaste(); byId("paste-open").focus(); });
byId("paste").addEventListener("submit", (event) => {
  event.preventDefault();
  const history = byId("paste-text").value.split(/[\s,;"'[\]]+/).filter(Boolean);
  if (!history.length) {
    byId("paste-error").textContent = "Paste at least one item id.";
    byId("paste-text").focus();
    return;
  }
  closePaste();
  go({ history });
});
