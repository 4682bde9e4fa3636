// The turns of the conversation on the page.

import { element } from "./dom.js";
import { figure } from "./media.js";
import { drawOver } from "./overlay.js";

/** A question with its media; `onEdit` puts it back into the form. */
export function questionNode(turn, onEdit) {
  const media = element("div", { class: "attached" }, ...turn.media.map((medium) => figure(medium)));
  const edit = element("button", { type: "button", class: "plain small", onclick: onEdit }, "Edit");
  return element("li", { class: "turn user" },
    element("span", { class: "hidden" }, "You:"), turn.media.length ? media : null,
    element("div", { class: "turn-text" }, turn.text), element("div", { class: "turn-tools" }, edit));
}

/** An answer that grows. */
export class AnswerNode {
  constructor({ onAgain, onCompare }) {
    this.words = element("div", { class: "turn-text writing" });
    this.note = element("span", { class: "quiet" });
    this.again = element("button", { type: "button", class: "plain small", onclick: onAgain }, "Ask again");
    this.compare = element("button", { type: "button", class: "plain small", onclick: onCompare, title: "Ask the same question with another sample's medium" }, "Does it look?");
    this.tools = element("div", { class: "turn-tools", hidden: true }, this.again, this.compare, this.note);
    this.node = element("li", { class: "turn assistant", "aria-busy": "true" },
      element("span", { class: "hidden" }, "Assistant:"), this.words, this.tools);
  }

  /** Append a piece of text. */
  add(text) {
    this.words.append(text);
  }

  /** Show the complete answer. */
  finish(outcome, state, media, comparable) {
    this.words.classList.remove("writing");
    this.node.setAttribute("aria-busy", "false");
    this.tools.hidden = false;
    this.compare.hidden = !comparable;
    this.note.textContent = described(outcome, state);
    if (!this.words.textContent && state !== "failed") {
      this.words.replaceChildren(element("span", { class: "quiet" }, state === "stopped" ? "Stopped before the first word." : "The answer is empty."));
    }
    const image = media.filter((medium) => medium.modality === "image").at(-1);
    if (outcome && image) image.shown.then(() => drawOver(image.picture, outcome), () => {}); // without a preview there is no place
    const values = (outcome?.predictions ?? []).filter(({ value }) => value !== null);
    if (values.length) this.node.insertBefore(predictionList(values), this.tools);
  }

  /** Only the last answer can be asked for again. */
  retire() {
    this.tools.hidden = true;
  }

  /** Show an error below what was answered. */
  fail(sentence) {
    this.node.insertBefore(element("div", { class: "turn-problem", role: "alert" }, sentence), this.tools);
  }
}

function described(outcome, state) {
  const parts = [];
  if (state === "stopped") parts.push("stopped");
  if (outcome?.finish === "length") parts.push("cut at the most tokens");
  if (outcome?.usage) parts.push(`${outcome.usage.prompt_tokens} tokens in, ${outcome.usage.completion_tokens} out`);
  return parts.join(", ");
}

function predictionList(values) {
  const isMatrix = (value) => Array.isArray(value?.[0]) && typeof value[0][0] === "number";
  const text = (value) => {
    if (isMatrix(value) && value.length > 4) return `${value.length} x ${value[0].length} values`;
    const json = JSON.stringify(value, (_, each) => (typeof each === "number" ? Number(each.toPrecision(4)) : each));
    return json.length > 160 ? `${json.slice(0, 160)}...` : json;
  };
  return element("ul", { class: "quiet" }, ...values.map(({ head, value }) => element("li", {}, `${head}: ${text(value)}`)));
}
