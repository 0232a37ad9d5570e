// How treatments look: each has one colour, here and in Figure 5 (heedful.serving.figures).

import { element, words } from "./dom.js";

const OTHERS = ["popularity", "last_item", "editorial"];

/** The class that gives a treatment its colour; the served model has one colour under each of its names. */
export const hue = (treatment) => (OTHERS.includes(treatment) ? `hue-${treatment}` : "hue-model");

/** The name of a treatment after a dot of its colour. */
export const named = (treatment, tag = "span") => element(tag, { class: `treatment ${hue(treatment)}` }, words(treatment));
