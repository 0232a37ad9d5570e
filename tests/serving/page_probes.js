// Questions about a whole page that the tests put to it; each answers with what is wrong.

window.probes = (() => {
  const every = (selector) => [...document.querySelectorAll(selector)];
  const shown = (one) => one.checkVisibility({ visibilityProperty: true });
  const told = (one) => one.outerHTML.slice(0, 120);
  const words = (one, name) => (one.getAttribute(name) ?? "").split(" ").filter(Boolean);

  // What is cut on purpose ends in an ellipsis; the editor of the slots file scrolls within itself.
  function cutOff() {
    return every("main *, header *").filter((one) => {
      const box = one.getBoundingClientRect();
      if (!shown(one) || !box.width || one.closest(".sr, .editor, .compact td")) return false;
      const style = getComputedStyle(one);
      const cut = style.overflowX === "hidden" && style.textOverflow !== "ellipsis" && one.scrollWidth > one.clientWidth + 1;
      return cut || box.right > innerWidth + 1 || box.left < -1;
    }).map(told);
  }

  function nameOf(one) {
    return one.getAttribute("aria-label")
      ?? ([...words(one, "aria-labelledby").map((id) => document.getElementById(id)?.textContent),
        ...[...(one.labels ?? [])].map((label) => label.textContent)].join("") || one.textContent);
  }

  function unnamed() {
    const ids = every("[id]").map((one) => one.id);
    const levels = every("h1, h2, h3").filter(shown).map((one) => Number(one.tagName[1]));
    return {
      nameless: every("button, a, input, select, textarea, section, aside, nav, dialog, [role=listbox]")
        .filter((one) => shown(one) && !nameOf(one).trim()).map(told),
      dangling: ["aria-controls", "aria-labelledby", "aria-describedby", "aria-activedescendant", "for"]
        .flatMap((name) => every(`[${name}]`).flatMap((one) => words(one, name)))
        .filter((id) => !document.getElementById(id)),
      twice: ids.filter((id, at) => ids.indexOf(id) !== at),
      jumps: levels.filter((level, at) => at > 0 && level > levels[at - 1] + 1),
      headless: every("th:not([scope])").map(told),
      titles: levels.filter((level) => level === 1).length,
    };
  }

  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function rgba(colour) {
    pixel.clearRect(0, 0, 1, 1);
    pixel.fillStyle = colour;
    pixel.fillRect(0, 0, 1, 1);
    return [...pixel.getImageData(0, 0, 1, 1).data];
  }

  // Relative luminance and contrast as WCAG 2 defines them, over the first opaque background beneath.
  function luminance(colour) {
    const [red, green, blue] = colour.map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function ground(one) {
    for (let at = one; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgba("white");
  }

  function faint() {
    return every("body *").filter((one) => shown(one) && !one.closest(".sr")
      && (one.matches("input, select, textarea") || [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())))
      .map((one) => {
        const style = getComputedStyle(one);
        const [dark, light] = [luminance(rgba(style.color)), luminance(ground(one))].sort((a, b) => a - b);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        return { one: told(one), contrast: (light + 0.05) / (dark + 0.05), least: large ? 3 : 4.5 };
      }).filter(({ contrast, least }) => contrast < least);
  }

  // WCAG 2.2, 2.5.8; a checkbox is pressed by its label as well.
  function small() {
    return every("button, nav a, input:not([type=checkbox]), select, summary, textarea").filter(shown).filter((one) => {
      const box = one.getBoundingClientRect();
      return box.height < 24 || box.width < 24;
    }).map(told);
  }

  function ringless() {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return { name: one.id || one.className || one.tagName, seen: ring || one === document.body || one.closest(".editor") !== null };
  }

  function moving() {
    return every("*").filter((one) => {
      const style = getComputedStyle(one);
      return style.animationName !== "none" || style.transitionDuration.split(",").some((time) => parseFloat(time) > 0);
    }).map(told);
  }

  // Bars of one figure can be compared only where they begin and end at the same places.
  function uneven() {
    return every(".bars").filter((figure) => new Set([...figure.querySelectorAll(".ctr-bar")].map((bar) => {
      const box = bar.getBoundingClientRect();
      return `${Math.round(box.left)} to ${Math.round(box.right)}`;
    })).size > 1).map(told);
  }

  return { cutOff, unnamed, faint, small, ringless, moving, uneven };
})();
