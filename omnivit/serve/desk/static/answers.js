// Held-out answers of a run: wrong ones first, with their media, filtered by condition, class and text.

import { get, request } from "./api.js";
import { byId, element, showProblem } from "./dom.js";

const PAGE = 24;
const CONDITIONS = { true: "its own", shuffled: "another sample's", none: "none" };
const state = { run: null, answers: [], shown: PAGE };

/** Connect the filters. */
export function setUpAnswers() {
  for (const id of ["condition", "right", "group", "text"]) byId(id).addEventListener("input", () => { state.shown = PAGE; show(); });
  byId("answers-run").addEventListener("change", () => load(byId("answers-run").value));
  byId("more").addEventListener("click", () => { state.shown += PAGE; show(); });
}

/** Offer these runs; answers of the first are shown, unless another one of them is. */
export async function offerRuns(runs) {
  const before = byId("answers-run").value;
  byId("answers-run").replaceChildren(...runs.map((run) => element("option", { value: run.id }, run.name)));
  const name = runs.some((run) => run.id === before) ? before : runs[0]?.id;
  byId("answers-run").value = name ?? "";
  if (name !== state.run) await load(name);
}

async function load(name) {
  state.run = name;
  try {
    state.answers = name ? (await get(`/desk/runs/${name}/answers`)).answers : [];
  } catch (error) {
    state.answers = [];
    showProblem(error.message);
  }
  const conditions = [...new Set(state.answers.map((answer) => answer.condition))];
  const groups = [...new Set(state.answers.map((answer) => answer.group))].sort();
  byId("condition").replaceChildren(...conditions.map((each) => element("option", { value: each }, CONDITIONS[each] ?? each)));
  byId("group").replaceChildren(element("option", { value: "" }, "all"), ...groups.map((each) => element("option", { value: each }, each)));
  state.shown = PAGE;
  show();
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
  const medium = answer.media[0];
  const thumb = element("span", { class: "thumb", title: medium?.name }, medium?.slot ?? "text");
  if (medium) showMedium(answer, thumb);
  const line = answer.right ? null : element("div", {}, "expected: ", answer.reference);
  return element("li", { class: answer.right ? "answer" : "answer wrong" }, thumb,
    element("div", {}, element("div", { class: "said" }, answer.prediction || "(empty)", element("span", { class: "hidden" }, answer.right ? " right" : " wrong")),
      line, element("div", { class: "asked", title: answer.question }, answer.question)));
}

async function showMedium(answer, thumb) {
  const run = state.run;
  try {
    const blob = await (await request(`/desk/runs/${run}/answers/${answer.number}/0`)).blob();
    const source = URL.createObjectURL(blob);
    const kind = blob.type.split("/")[0];
    if (kind === "image") thumb.replaceWith(element("img", { class: "thumb", src: source, alt: answer.media[0].name }));
    if (kind === "audio") thumb.replaceChildren(element("button", { type: "button", class: "small", onclick: () => new Audio(source).play() }, "Play"));
    if (kind === "video") thumb.replaceWith(element("video", { class: "thumb", src: source, muted: true, controls: true }));
  } catch {
    thumb.title = "The file is not where the run's data were.";
  }
}
