// A medium that the user added: its files with their slot, their preview, and their form in a request.

import { request } from "./api.js";
import { element, size } from "./dom.js";
import { preview } from "./previews.js";

/** A medium of one file, or of several that are one volume. */
export const medium = (slot, modality, files) => ({ slot, modality, files, file: files[0] });

/** The part of a message that the API takes: the content travels as data URLs. */
export async function partOf(given) {
  given.urls ??= await Promise.all(given.files.map(dataUrl));
  const { slot, urls } = given;
  return { type: slot, [slot]: { url: urls.length > 1 ? urls : urls[0] } };
}

/** The same in a record of `reader: messages`. */
export async function recordPartOf(given) {
  await partOf(given);
  const { slot, urls } = given;
  return urls.length > 1 ? { type: slot, paths: urls } : { type: slot, [slot]: urls[0] };
}

/** The name of a medium as users read it. */
export function nameOf({ files }) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  return files.length > 1 ? `${files.length} files (${size(bytes)})` : `${files[0].name} (${size(bytes)})`;
}

/** A figure with the preview of a medium; with `onRemove` it has a button that removes it. */
export function figure(given, onRemove) {
  const head = element("figcaption", { class: "medium-head" },
    element("span", { class: "medium-name", title: given.files.map((file) => file.name).join("\n") }, `${given.slot}: ${nameOf(given)}`));
  if (onRemove) {
    head.append(element("button", { type: "button", class: "plain small", "aria-label": `Remove ${nameOf(given)}`, onclick: onRemove }, "Remove"));
  }
  const body = element("div", {});
  const node = element("figure", { class: "medium", "data-slot": given.slot, "data-modality": given.modality }, head, body);
  given.shown = preview(given, body, (settings) => fromServer(given, settings));
  given.shown.then(() => node.setAttribute("data-ready", "true"), (error) => {
    node.setAttribute("data-ready", "failed");
    body.replaceChildren(element("p", { class: "quiet" }, `There is no preview. ${error.message}`));
  });
  return node;
}

/** Ask the server for a preview. */
async function fromServer(given, settings = {}) {
  const query = new URLSearchParams({ name: given.file.name, ...settings });
  const headers = { "Content-Type": "application/json" };
  return (await request(`/ui/preview?${query}`, { method: "POST", headers, body: JSON.stringify(await partOf(given)) })).json();
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read. Was it moved or changed?"));
    reader.readAsDataURL(blob);
  });
}
