// A medium that the user added: a file with its slot, its preview, and its form in a request.

import { element, size } from "./dom.js";
import { preview } from "./previews.js";

/** The part of a message that the API takes: the content travels as a data URL. */
export async function partOf(medium) {
  medium.url ??= await dataUrl(medium.file);
  return { type: medium.slot, [medium.slot]: { url: medium.url } };
}

/** A figure with the preview of a medium; with `onRemove` it has a button that removes it. */
export function figure(medium, onRemove) {
  const head = element("figcaption", { class: "medium-head" },
    element("span", { class: "medium-name", title: medium.file.name }, `${medium.slot}: ${medium.file.name} (${size(medium.file.size)})`));
  if (onRemove) {
    head.append(element("button", { type: "button", class: "plain small", "aria-label": `Remove ${medium.file.name}`, onclick: onRemove }, "Remove"));
  }
  const body = element("div", {});
  const node = element("figure", { class: "medium", "data-slot": medium.slot, "data-modality": medium.modality }, head, body);
  preview(medium, body).then(() => node.setAttribute("data-ready", "true"), (error) => {
    node.setAttribute("data-ready", "failed");
    body.replaceChildren(element("p", { class: "quiet" }, `There is no preview. ${error.message}`));
  });
  return node;
}

/** The slots that accept a file, the best first: by its suffix, then by its MIME type, then all others. */
export function slotsFor(file, inputs) {
  const name = file.name.toLowerCase();
  const bySuffix = inputs.filter((input) => (input.suffixes ?? []).some((suffix) => name.endsWith(suffix)));
  const kind = file.type.split("/")[0];
  const byType = inputs.filter((input) => input.modality === kind || (file.type === "application/pdf" && input.modality === "page"));
  const best = [...new Set([...byType.filter((input) => bySuffix.includes(input)), ...bySuffix, ...byType])];
  return best.length ? best : inputs;
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read. Was it moved or changed?"));
    reader.readAsDataURL(blob);
  });
}
