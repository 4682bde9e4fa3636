// The chat page: reads what the model takes, and connects the form with the conversation.

import { get } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { byId, element, setUpTheme, showProblem } from "./dom.js";
import { filesOf, showSamples } from "./samples.js";

async function start() {
  setUpTheme(byId("theme"));
  setUpPanel();
  let model;
  try {
    [model] = (await get("/v1/models")).data;
  } catch (error) {
    return showProblem(error.message);
  }
  const inputs = model.inputs ?? [];
  describe(model, inputs);
  const composer = new Composer(inputs);
  const conversation = new Conversation(model, settings, composer);
  composer.onAsk = (turn) => conversation.ask(turn);
  composer.onStop = () => conversation.stop();
  byId("new").addEventListener("click", () => { conversation.clear(); composer.clear(); });
  byId("download").addEventListener("click", () => save(conversation));
  await showSamples((sample) => useSample(sample, composer));
  document.body.dataset.ready = "true";
  return undefined;
}

function describe(model, inputs) {
  document.title = `${model.id}, OmniViT`;
  byId("model").textContent = model.id;
  const slots = inputs.map((input) => input.slot);
  const heads = model.heads?.length ? `, heads: ${model.heads.join(", ")}` : "";
  byId("facts").textContent = `context of ${(model.context ?? 0).toLocaleString("en")} tokens${heads}`;
  byId("accepts").textContent = slots.length ? `This model takes ${slots.join(", ")} and text.` : "This model takes text.";
}

/** The sampling settings of a request. */
function settings() {
  const number = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  const chosen = { temperature: number("temperature"), top_p: number("top_p"), max_tokens: number("max_tokens"), seed: number("seed") };
  return Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== undefined));
}

/** Put a sample of the evaluation data into the form: its media and its question. */
async function useSample(sample, composer) {
  try {
    const media = await Promise.all(sample.media.map(async (each) => [each.slot, await filesOf(sample, each)]));
    composer.clear();
    media.forEach(([slot, files]) => composer.add(slot, files));
    composer.fillText(sample.question, sample);
  } catch (error) {
    showProblem(error.message);
  }
}

function setUpPanel() {
  const toggle = byId("panel-toggle");
  const show = (open) => {
    byId("panel").classList.toggle("open", open);
    toggle.setAttribute("aria-expanded", String(open));
  };
  toggle.addEventListener("click", () => show(toggle.getAttribute("aria-expanded") === "false"));
  byId("panel").addEventListener("keydown", (event) => { if (event.key === "Escape") { show(false); toggle.focus(); } });
  byId("samples").addEventListener("click", () => show(false));
}

async function save(conversation) {
  const url = URL.createObjectURL(new Blob([await conversation.record()], { type: "application/jsonl" }));
  element("a", { href: url, download: "conversation.jsonl" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

start();
