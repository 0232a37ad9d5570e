// Which view the address asks for, the notice when the server is gone, and the dialog for a key.

import { connection, useKey } from "./api.js";
import { openClicks } from "./clicks.js";
import { openDeclaration } from "./declaration.js";
import { byId, element, sentence } from "./dom.js";
import { openModel } from "./model.js";
import { openVisitor } from "./visitor.js";

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

const VIEWS = {
  visitor: { link: "#/", title: "Visitors", open: openVisitor },
  clicks: { link: "#/clicks", title: "Click-through", open: openClicks },
  slots: { link: "#/slots", title: "Slots", open: openDeclaration },
  model: { link: "#/model", title: "Model", open: openModel },
};

/** The view of an address, with the visitor it names: #/user/900, #/history/12,34, #/clicks, #/slots, #/model. */
function route() {
  const [head, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const tail = rest.join("/");
  if (head === "user" && tail) return { view: "visitor", visitor: { user: decoded(tail) } };
  if (head === "history") return { view: "visitor", visitor: { history: tail.split(",").filter(Boolean).map(decoded) } };
  return { view: head !== "visitor" && Object.hasOwn(VIEWS, head) ? head : "visitor", visitor: null };
}

let opened = null;

async function show({ moved }) {
  const { view, visitor } = route();
  for (const name of Object.keys(VIEWS)) byId(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === VIEWS[view].link) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const who = visitor?.user ?? (visitor ? "a pasted history" : null);
  document.title = `${who ? `Visitor ${who}` : VIEWS[view].title} · heedful`;
  if (moved && opened !== view) window.scrollTo(0, 0);
  // A reader of the screen hears where they are; what the address calls up first leaves the focus alone.
  if (moved) byId(`${view}-heading`).focus({ preventScroll: true });
  opened = view;
  await VIEWS[view].open(visitor);
}

function watchConnection() {
  const banner = byId("banner");
  connection.addEventListener("gone", ({ detail }) => {
    banner.replaceChildren(element("strong", {}, sentence(detail.message)), " ", detail.fix ? sentence(detail.fix) : "",
      " Trying again by itself.");
    banner.hidden = false;
  });
  connection.addEventListener("back", () => {
    banner.hidden = true;
    show({ moved: false });
  });
}

function watchKey() {
  const dialog = byId("key-dialog");
  connection.addEventListener("key", ({ detail }) => {
    byId("key-reason").textContent = `${sentence(detail.message)} ${sentence(detail.fix)}`.trim();
    if (!dialog.open) dialog.showModal();
  });
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key-input").value.trim());
    byId("key-input").value = "";
    dialog.close();
    show({ moved: false });
  });
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", () => show({ moved: true }));
watchConnection();
watchKey();
show({ moved: false });
