// The conversation: what was asked and answered, asking, stopping, asking again, and the record for download.

import { stream } from "./api.js";
import { announce, byId, element, showProblem } from "./dom.js";
import { figure, medium, partOf, recordPartOf } from "./media.js";
import { anotherSample, filesOf } from "./samples.js";
import { AnswerNode, questionNode } from "./turns.js";

/** One conversation with the model. */
export class Conversation {
  /**
   * @param model of /v1/models
   * @param settings gives the sampling settings of a request.
   * @param form the composer: `fill(turn)` puts a question back, `busy(is)` shows that an answer grows.
   */
  constructor(model, settings, form) {
    Object.assign(this, { model, settings, form, turns: [] });
    byId("stop").addEventListener("click", () => this.stop());
  }

  get busy() {
    return Boolean(this.controller);
  }

  /** Ask a question: {text, media, sample}. */
  async ask(turn) {
    showProblem("");
    byId("welcome").hidden = true;
    this.turns.at(-1)?.answerNode?.retire();
    turn.node = questionNode(turn, () => this.edit(turn));
    byId("turns").append(turn.node);
    this.turns.push(turn);
    await this.answer(turn);
  }

  /** Ask the last question again. */
  async again() {
    const turn = this.turns.at(-1);
    if (!turn || this.busy) return;
    turn.answerNode.node.remove();
    await this.answer(turn);
  }

  /** Take a question, and all that follows, out of the conversation, and put it back into the form. */
  edit(turn) {
    if (this.busy) return;
    const removed = this.turns.splice(this.turns.indexOf(turn));
    removed.forEach((each) => { each.node.remove(); each.answerNode?.node.remove(); });
    byId("welcome").hidden = this.turns.length > 0;
    this.form.fill(turn);
    this.changed();
  }

  stop() {
    this.controller?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    byId("turns").replaceChildren();
    byId("welcome").hidden = false;
    showProblem("");
    this.changed();
  }

  async answer(turn) {
    const shown = new AnswerNode({ onAgain: () => this.again(), onCompare: () => this.compare(turn) });
    Object.assign(turn, { answerNode: shown, answer: "", state: "writing" });
    byId("turns").append(shown.node);
    let outcome = null;
    try {
      outcome = await this.alone(() => this.run(this.turns, (text) => {
        turn.answer += text;
        shown.add(text);
        shown.node.scrollIntoView({ block: "nearest" });
      }));
      turn.state = "done";
    } catch (error) {
      turn.state = error.name === "AbortError" ? "stopped" : "failed";
      if (turn.state === "failed") shown.fail(error.message);
    }
    const media = this.turns.flatMap((each) => each.media); // boxes are in the last image of the conversation
    shown.finish(outcome, turn.state, media, turn.state !== "failed" && turn.media.length > 0);
    announce({ done: `Answer: ${turn.answer}`, stopped: "The answer was stopped.", failed: "The question failed." }[turn.state]);
    this.changed();
  }

  /** Do something that asks the model, and nothing else until it has ended; media that are read count as part of it. */
  async alone(action) {
    this.controller = new AbortController();
    this.form.busy(true);
    try {
      return await action();
    } finally {
      this.controller = null;
      this.form.busy(false);
    }
  }

  /** Ask the model about turns, inside of `alone`. `sampling` overrides the settings of the form. */
  async run(turns, onText, sampling = {}) {
    const { signal } = this.controller;
    return stream({ model: this.model.id, messages: await this.messages(turns), ...this.settings(), ...sampling }, signal, onText);
  }

  /** Turns as the API takes them; the last one has no answer. */
  async messages(turns) {
    const messages = [];
    for (const turn of turns) {
      messages.push({ role: "user", content: [...(await Promise.all(turn.media.map(partOf))), { type: "text", text: turn.text }] });
      if (turn !== turns.at(-1)) messages.push({ role: "assistant", content: turn.answer });
    }
    return messages;
  }

  /** "Does it look?": the question with its own medium and with another sample's, both asked at temperature 0. */
  async compare(turn) {
    if (this.busy) return;
    try {
      await this.alone(() => this.compared(turn));
    } catch (error) {
      if (error.name !== "AbortError") turn.answerNode.fail(error.message);
    }
  }

  async compared(turn) {
    const [own] = turn.media;
    const { signal } = this.controller;
    const box = element("section", { class: "side-by-side", "aria-label": "The same question with another medium" });
    const sample = await anotherSample(own.slot, turn.sample?.index, turn.sample?.answer, signal);
    const files = await filesOf(sample, sample.media.find((each) => each.slot === own.slot), signal);
    const other = medium(own.slot, own.modality, files);
    const column = (title, given) => {
      const words = element("div", { class: "turn-text" });
      box.append(element("div", {}, element("h3", {}, title), figure(given), words));
      return words;
    };
    const places = [column("With your medium", { ...own, picture: undefined }), column("With another sample's", other)];
    box.append(element("p", { class: "quiet" }, "Both questions are asked at temperature 0."));
    turn.answerNode.node.querySelector(".side-by-side")?.remove();
    turn.answerNode.node.append(box);
    const changed = turn.media.map((each) => (each.slot === own.slot ? other : each));
    const first = await this.greedy(turn, turn.media, places[0]);
    const second = await this.greedy(turn, changed, places[1]);
    const verdict = first.trim() === second.trim() ? "The same answer with another medium." : "The answers differ.";
    box.append(element("p", { class: "verdict" }, verdict));
    announce(verdict);
  }

  /** The likeliest answer to a question with these media, written into a place as it grows. */
  async greedy(turn, media, place) {
    const turns = [...this.turns.slice(0, this.turns.indexOf(turn)), { ...turn, media }];
    let text = "";
    place.classList.add("writing");
    try {
      await this.run(turns, (piece) => { text += piece; place.append(piece); }, { temperature: 0, top_p: undefined, seed: undefined });
    } finally {
      place.classList.remove("writing");
    }
    return text;
  }

  changed() {
    byId("download").disabled = !this.turns.some((turn) => turn.answer);
  }

  /** The conversation as one line for `reader: messages`. The media are in it, as data URLs: a picture of the camera
   * is nowhere else, and pasted ones share a name. */
  async record() {
    const messages = [];
    for (const turn of this.turns.filter((each) => each.answer)) {
      messages.push(
        { role: "user", content: [...(await Promise.all(turn.media.map(recordPartOf))), { type: "text", text: turn.text }] },
        { role: "assistant", content: [{ type: "text", text: turn.answer }] },
      );
    }
    return `${JSON.stringify({ id: `conversation/${new Date().toISOString()}`, messages })}\n`;
  }
}
