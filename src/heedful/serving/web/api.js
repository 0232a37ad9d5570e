// Requests to the server that the page came from. Addresses are relative, so the page also works behind a path prefix.

const KEY = "heedful-key";

/** A request that failed: `status` is 0 when nothing answered; `message` and `fix` are for the reader. */
export class RequestError extends Error {
  constructor(status, code, message, fix = "") {
    super(message);
    Object.assign(this, { status, code, fix });
  }
}

export const useKey = (key) => sessionStorage.setItem(KEY, key);

const outage = new EventTarget();
/** Tells of "gone" and "key" (detail: the error), and of "back". */
export const connection = outage;
let gone = false;

export async function get(path, signal) {
  return (await send("GET", path, { signal })).json();
}

export async function getText(path, signal) {
  return (await send("GET", path, { signal })).text();
}

export async function post(path, value, signal) {
  const answer = await send("POST", path, { signal, body: JSON.stringify(value), type: "application/json" });
  return answer.json();
}

export async function putText(path, text, type, match) {
  return (await send("PUT", path, { body: text, type, match })).json();
}

export async function postText(path, text, type) {
  return (await send("POST", path, { body: text, type })).json();
}

export async function remove(path) {
  return (await send("DELETE", path)).json();
}

/** An id among others with commas between them. */
export const quoted = (id) => `"${String(id).replaceAll('"', '""')}"`;

/** A path of literal parts, each percent-encoded. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** The text at an address, and the name of its version. */
export async function getVersion(path, signal) {
  const answer = await send("GET", path, { signal });
  return { text: await answer.text(), etag: answer.headers.get("etag") };
}

async function send(method, address, { body, type, signal, match } = {}) {
  const headers = { Accept: "application/json" };
  if (type) headers["Content-Type"] = type;
  if (match) headers["If-Match"] = match;
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(address, { method, body, headers, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost(new RequestError(0, "unreachable", "The server does not answer", "Start it again with `heedful serve`; this page carries on by itself"));
  }
  if (answer.ok) return answer;
  const failed = await errorOf(answer);
  if (failed.status === 503) throw lost(failed);
  if (failed.status === 401 || failed.code === "forbidden") outage.dispatchEvent(new CustomEvent("key", { detail: failed }));
  throw failed;
}

async function errorOf(answer) {
  try {
    const { code, message, fix } = (await answer.json()).error;
    return new RequestError(answer.status, code, message, fix ?? "");
  } catch {
    return new RequestError(answer.status, "unreadable", `The server answered ${answer.status} ${answer.statusText}`.trim(), "Look at the server's log");
  }
}

// After a loss the server is asked every other second whether it is ready, until it is.
function lost(error) {
  if (!gone) {
    gone = true;
    outage.dispatchEvent(new CustomEvent("gone", { detail: error }));
    setTimeout(ask, 2000);
  }
  return error;
}

async function ask() {
  try {
    if ((await fetch("health/ready", { cache: "no-store" })).ok) {
      gone = false;
      outage.dispatchEvent(new Event("back"));
      return;
    }
  } catch {
    // Still gone: ask again.
  }
  setTimeout(ask, 2000);
}
