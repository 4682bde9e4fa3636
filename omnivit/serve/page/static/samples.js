// Examples from the run's evaluation data: a list in the panel, and samples for the question "does it look?".

import { get, request } from "./api.js";
import { byId, element, showProblem } from "./dom.js";

const PAGE = 8;
const IMAGE = /\.(png|jpe?g|webp|gif|bmp|avif)$/i;

/** The files of a sample's medium. */
export async function filesOf(sample, medium, signal) {
  if (!medium.files.length) throw new Error(`The ${medium.slot} of this sample cannot be read here.`);
  return Promise.all(medium.files.map(async (name, number) => {
    const response = await request(`/ui/samples/${sample.index}/${medium.number}?file=${number}`, { signal });
    return new File([await response.blob()], name, { type: response.headers.get("Content-Type") });
  }));
}

/** A sample with a medium for the slot, of another answer than this one if there is such a sample. */
export async function anotherSample(slot, notIndex, notAnswer, signal) {
  const { samples, note } = await get(`/ui/samples?other=${encodeURIComponent(slot)}`, { signal });
  const fitting = samples.filter((sample) => sample.index !== notIndex && sample.media.some((medium) => medium.slot === slot && medium.files.length));
  const chosen = fitting.find((sample) => sample.answer !== notAnswer) ?? fitting[0];
  if (!chosen) throw new Error(note ?? `The run's evaluation data have no other ${slot} to compare with.`);
  return chosen;
}

/** Fill the list; `onChoose(sample)` is called with the one that the user chooses. */
export async function showSamples(onChoose) {
  let offset = 0;
  const load = async () => {
    let page;
    try {
      page = await get(`/ui/samples?offset=${offset}&limit=${PAGE}`);
    } catch (error) {
      return showProblem(error.message);
    }
    const empty = page.total === 0;
    byId("examples").hidden = false;
    byId("examples-note").textContent = empty ? page.note ?? "The run's evaluation data are empty." : "From the run's evaluation data.";
    byId("pager").hidden = empty;
    if (empty) return undefined;
    byId("samples").replaceChildren(...page.samples.map((sample) => entry(sample, onChoose)));
    byId("range").textContent = `${offset + 1} to ${offset + page.samples.length} of ${page.total}`;
    byId("earlier").disabled = offset === 0;
    byId("later").disabled = offset + PAGE >= page.total;
    return undefined;
  };
  byId("earlier").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); load(); });
  byId("later").addEventListener("click", () => { offset += PAGE; load(); });
  await load();
}

function entry(sample, onChoose) {
  const [first] = sample.media;
  const kind = element("span", { class: "kind", "aria-hidden": "true" }, first?.slot ?? "text");
  if (first?.files.length === 1 && IMAGE.test(first.files[0])) {
    filesOf(sample, first).then(async ([file]) => {
      const image = element("img", { src: URL.createObjectURL(file), alt: "" });
      await image.decode();
      kind.replaceWith(image);
    }).catch(() => {}); // the word stays
  }
  const words = element("span", { class: "words" }, sample.question);
  return element("li", {}, element("button", { type: "button", onclick: () => onChoose(sample) }, kind, words));
}
