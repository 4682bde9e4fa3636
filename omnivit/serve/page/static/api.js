// Requests to the server of this page, and to no other: with the key, with errors as sentences.

import { byId } from "./dom.js";

const KEY = "omnivit-key";

/** An error whose message is a sentence for the user. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let asking = null; // requests that are refused together ask once

/** Ask the user for the key; it never stands in an address. The result: whether there is one. */
function askForKey(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key");
    byId("key-refused").hidden = !refused;
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "continue" && field.value.trim() !== "";
      if (given) sessionStorage.setItem(KEY, field.value.trim());
      field.value = dialog.returnValue = "";
      asking = null;
      resolve(given);
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** fetch with the key. Asks for it where the server wants one; throws ApiError for every other failure. */
export async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running? Start it again with `omnivit serve`.", 0);
  }
  if (response.status === 401) {
    const current = sessionStorage.getItem(KEY);
    if (current !== key) return request(path, options); // given meanwhile
    sessionStorage.removeItem(KEY);
    if (await askForKey(key !== null)) return request(path, options);
  }
  if (!response.ok) throw new ApiError(await sentence(response), response.status);
  return response;
}

/** The JSON of a GET request. */
export const get = async (path, options) => (await request(path, options)).json();

async function sentence(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    const message = body.error?.message ?? body.detail ?? body.error;
    if (typeof message === "string" && message) return message;
  } catch {
    // not JSON: a proxy's page
  }
  const reasons = {
    401: "The server refuses this key.",
    413: "The file is larger than the server accepts.",
    429: "The server is busy. Try again in a moment.",
    503: "The server is not ready. Try again in a moment.",
  };
  return reasons[response.status] ?? `The server answered with an error (${response.status} ${response.statusText}).`;
}

/** Ask for an answer that arrives in pieces.
 *
 * @param body the request of /v1/chat/completions, without `stream`.
 * @param signal stops the answer.
 * @param onText is called with each piece of text.
 * @returns what came beside the text: {finish, boxes, points, predictions, usage}
 */
export async function stream(body, signal, onText) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  const outcome = { finish: null, boxes: [], points: [], predictions: [], usage: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message ?? String(chunk.error), 500);
    if (chunk.usage) outcome.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    if (choice.delta?.content) onText(choice.delta.content);
    if (choice.finish_reason) outcome.finish = choice.finish_reason;
    for (const name of ["boxes", "points", "predictions"]) if (choice[name]?.length) outcome[name] = choice[name];
  }
  return outcome;
}

/** The `data:` fields of a stream of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const frames = rest.split(/\r?\n\r?\n/);
    rest = done ? "" : frames.pop();
    for (const frame of frames) {
      const lines = frame.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
    if (done) return;
  }
}
