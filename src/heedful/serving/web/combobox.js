// An input with a list of suggestions, by the WAI-ARIA combobox pattern: arrows move, Enter takes, Escape closes.

import { announce, element, plural } from "./dom.js";

const PAUSE_MS = 140;

/**
 * @param input text field
 * @param list element with role listbox
 * @param load (text, signal) => promise of options {value, label (node or text), note}
 * @param choose (option) => void
 * @param enter (text) => void, for Enter with no option marked; may be left out
 * @param nothing (text) => what to say when no option fits
 */
export function combobox({ input, list, load, choose, enter, nothing }) {
  let options = [];
  let marked = -1;
  let timer;
  let asked = new AbortController();

  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");

  const close = () => {
    clearTimeout(timer);
    asked.abort();
    list.hidden = true;
    marked = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const mark = (place) => {
    marked = place;
    [...list.children].forEach((row, at) => row.setAttribute("aria-selected", String(at === place)));
    if (place < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", list.children[place].id);
    return list.children[place].scrollIntoView({ block: "nearest" });
  };

  const take = (option) => {
    close();
    input.value = "";
    choose(option);
  };

  const show = (rows) => {
    list.replaceChildren(...rows);
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    marked = -1;
    input.removeAttribute("aria-activedescendant");
  };

  const suggest = async () => {
    asked.abort();
    asked = new AbortController();
    const { signal } = asked;
    const text = input.value.trim();
    try {
      options = await load(text, signal);
    } catch (error) {
      if (error.name !== "AbortError") close();
      return;
    }
    if (signal.aborted || document.activeElement !== input) return;
    if (!options.length) {
      const said = nothing(text);
      show([element("li", { class: "none", role: "option", "aria-disabled": "true" }, said)]);
      announce(said);
      return;
    }
    show(options.map((option, at) => element("li",
      // The press must not take the focus from the field before the click arrives.
      { role: "option", id: `${list.id}-${at}`, "aria-selected": "false",
        on: { pointerdown: (event) => event.preventDefault(), click: () => take(option) } },
      option.label, option.note ? element("span", { class: "note" }, option.note) : null)));
    announce(plural(options.length, "suggestion"));
  };

  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(suggest, PAUSE_MS);
  };

  input.addEventListener("input", later);
  input.addEventListener("focus", later);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const open = !list.hidden && options.length > 0;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) return later();
      const step = event.key === "ArrowDown" ? 1 : -1;
      return mark((marked + step + options.length + (marked < 0 && step < 0 ? 1 : 0)) % options.length);
    }
    if (event.key === "Enter") {
      event.preventDefault();
      const text = input.value.trim();
      if (open && marked >= 0) return take(options[marked]);
      if (text && enter) {
        close();
        input.value = "";
        return enter(text);
      }
    }
    if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      close();
    }
    return undefined;
  });
}
