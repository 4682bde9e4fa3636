// Held-out answers of a run: wrong ones first, with their media, filtered by condition, class and text.

import { get, request } from "./api.js";
import { byId, element, showProblem } from "./dom.js";
import { preview } from "./previews.js";

const PAGE = 24;
const CONDITIONS = { true: "its own", shuffled: "another sample's", none: "none" };
const state = { run: null, version: "", answers: [], shown: PAGE };

/** Connect the filters. */
export function setUpAnswers() {
  for (const [id, event] of [["condition", "change"], ["right", "change"], ["group", "change"], ["text", "input"]]) {
    byId(id).addEventListener(event, () => { state.shown = PAGE; show(); });
  }
  byId("answers-run").addEventListener("change", () => load(byId("answers-run").value));
  byId("medium-dialog").addEventListener("close", () => byId("medium-preview").replaceChildren());
  byId("more").addEventListener("click", () => { state.shown += PAGE; show(); });
}

/** Offer these runs; answers of the first are shown, unless another one of them is. They are read again once a run has
 * been evaluated anew. */
export async function offerRuns(runs) {
  const before = byId("answers-run").value;
  byId("answers-run").replaceChildren(...runs.map((run) => element("option", { value: run.id }, run.name)));
  const run = runs.find((each) => each.id === before) ?? runs[0];
  byId("answers-run").value = run?.id ?? "";
  const version = run ? `${run.state} ${JSON.stringify(run.accuracy)}` : "";
  if (run?.id !== state.run || version !== state.version) await load(run?.id, version);
}

async function load(name, version = state.version) {
  const again = name === state.run;
  Object.assign(state, { run: name, version });
  try {
    state.answers = name ? (await get(`/desk/runs/${name}/answers`)).answers : [];
  } catch (error) {
    state.answers = [];
    showProblem(error.message);
  }
  const conditions = [...new Set(state.answers.map((answer) => answer.condition))];
  const groups = [...new Set(state.answers.map((answer) => answer.group))].sort();
  offer(byId("condition"), conditions.map((each) => [each, CONDITIONS[each] ?? each]));
  offer(byId("group"), [["", "all"], ...groups.map((each) => [each, each])]);
  if (!again) state.shown = PAGE;
  show();
}

/** Fill a list to choose from; what is chosen stays, where it is still offered. */
function offer(list, options) {
  const before = list.value;
  list.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === before)) list.value = before;
}

function show() {
  const [condition, right, group, text] = ["condition", "right", "group", "text"].map((id) => byId(id).value);
  const needle = text.toLowerCase();
  const matching = state.answers.filter((answer) => answer.condition === condition
    && (!right || answer.right === (right === "right"))
    && (!group || answer.group === group)
    && (!needle || `${answer.question}\n${answer.prediction}\n${answer.reference}`.toLowerCase().includes(needle)));
  matching.sort((one, other) => one.right - other.right || one.number - other.number);
  const wrong = matching.filter((answer) => !answer.right).length;
  byId("answers-note").textContent = state.answers.length
    ? `${matching.length} answers, ${wrong} of them wrong`
    : "There are no answers yet. They are written when the run is evaluated, after its last stage.";
  byId("answers").replaceChildren(...matching.slice(0, state.shown).map(card));
  byId("more").hidden = matching.length <= state.shown;
}

function card(answer) {
  const media = element("div", { class: "thumbs" }, ...answer.media.map((medium, place) => thumb(answer, medium, place)));
  if (!answer.media.length) media.append(element("span", { class: "thumb" }, "text"));
  const line = answer.right ? null : element("div", {}, "expected: ", answer.reference);
  return element("li", { class: answer.right ? "answer" : "answer wrong" }, media,
    element("div", {}, element("div", { class: "said" }, answer.prediction || "(empty)", element("span", { class: "hidden" }, answer.right ? " right" : " wrong")),
      line, element("div", { class: "asked", title: answer.question }, answer.question)));
}

/** A button with a small picture of a medium, or its kind in words, which opens its preview. */
function thumb(answer, medium, place) {
  const address = `/desk/runs/${state.run}/answers/${answer.number}/${place}`;
  const button = element("button", { type: "button", class: "thumb", "aria-label": `Show ${medium.slot} ${medium.name}`, title: medium.name,
    onclick: () => showMedium(address, medium) }, medium.slot);
  if (medium.modality === "image") {
    request(address).then(async (response) => {
      const image = element("img", { src: URL.createObjectURL(await response.blob()), alt: "" });
      await image.decode();
      button.replaceChildren(image);
    }).catch(() => {}); // the button's dialog says why
  }
  return button;
}

/** Show a medium in a dialog, as the chat page shows it. */
async function showMedium(address, medium) {
  const place = byId("medium-preview");
  byId("medium-name").textContent = `${medium.slot}: ${medium.name}`;
  place.replaceChildren(element("p", { class: "quiet" }, "Loading"));
  byId("medium-dialog").showModal();
  const ask = (settings = {}) => get(`${address}/preview?${new URLSearchParams(settings)}`);
  try {
    const whole = ["image", "audio"].includes(medium.modality) ? [await (await request(address)).blob()] : [];
    const type = whole[0]?.type;
    await preview({ ...medium, file: new File(whole, medium.name, { type }) }, place, ask);
  } catch (error) {
    place.replaceChildren(element("p", {}, `There is no preview. ${error.message}`));
  }
}
