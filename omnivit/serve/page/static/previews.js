// Previews by kind. What the browser cannot decode itself comes from the server, which uses the model's readers.

import { element } from "./dom.js";
import { showCloud } from "./points.js";
import { showWave } from "./waveform.js";

const WINDOWS = ["auto", "brain", "stroke", "subdural", "temporal_bone", "soft_tissue", "abdomen", "liver", "mediastinum", "lung", "bone"];
const PLANES = ["axial", "coronal", "sagittal"];
const SHOWN_BY_BROWSER = /^image\/(png|jpeg|webp|gif|bmp|avif|svg\+xml)$/;

/** Fill `place` with a preview of a medium.
 *
 * @param medium {slot, modality, file}; gets `picture`, the frame around what is shown, where it is a picture.
 * @param ask gives the server's preview; for volumes with {plane, window}.
 */
export async function preview(medium, place, ask) {
  const show = { image: showImage, video: showVideo, audio: showAudio, points: showPoints, volume: showVolume, page: showPages }[medium.modality];
  if (show) return show(medium, place, ask);
  place.replaceChildren(element("p", { class: "quiet" }, `A file for the input ${medium.slot}.`));
}

async function showImage(medium, place, ask) {
  const local = SHOWN_BY_BROWSER.test(medium.file.type);
  const shown = local ? { images: [URL.createObjectURL(medium.file)] } : await ask();
  const image = element("img", { src: shown.images[0], alt: `Image ${medium.file.name}` });
  [image.fullWidth, image.fullHeight] = shown.size ?? []; // of the file, where what is shown is smaller
  medium.picture = element("span", { class: "frame" }, image);
  place.replaceChildren(medium.picture);
  await image.decode();
}

async function showVideo(_, place, ask) {
  const { images, labels, note } = await ask();
  const strip = element("div", { class: "strip", tabIndex: 0, role: "group", "aria-label": `${images.length} frames of the video` },
    ...images.map((source, number) => element("img", { src: source, alt: `Frame at ${labels[number]}`, title: labels[number] })));
  place.replaceChildren(strip, element("p", { class: "quiet" }, note));
}

async function showAudio(medium, place, ask) {
  await showWave(medium.file, place, async () => (await ask()).audio);
}

async function showPages(_, place, ask) {
  const { images, labels, note } = await ask();
  const strip = element("div", { class: "strip pages", tabIndex: 0, role: "group", "aria-label": "Pages of the document" },
    ...images.map((source, number) => element("img", { src: source, alt: labels[number], title: labels[number] })));
  place.replaceChildren(strip, element("p", { class: "quiet" }, note));
}

async function showPoints(_, place, ask) {
  const { points, colours, note } = await ask();
  const canvas = element("canvas", { class: "cloud", tabIndex: 0, role: "img", "aria-label": "Point cloud. Arrow keys turn it, plus and minus change its size." });
  place.replaceChildren(canvas, element("p", { class: "quiet" }, note));
  showCloud(canvas, floats(points), colours ? floats(colours) : null);
}

async function showVolume(medium, place, ask) {
  const image = element("img", { alt: "" });
  const slider = element("input", { type: "range", min: 0, value: 0, "aria-label": "Slice" });
  const plane = choice("Plane", PLANES);
  const window = choice("Window", WINDOWS);
  const note = element("span", { class: "quiet", role: "status" });
  let slices;
  const turn = () => {
    const number = Number(slider.value);
    image.src = slices.images[number];
    image.alt = slices.labels[number];
    slider.setAttribute("aria-valuetext", slices.labels[number]);
    note.textContent = slices.labels[number];
  };
  const load = async () => {
    slices = await ask({ plane: plane.value, window: window.value });
    slider.max = slices.images.length - 1;
    slider.value = Math.floor(slices.images.length / 2);
    plane.parentElement.hidden = !slices.planes;
    turn();
  };
  const reload = () => load().catch((error) => { note.textContent = error.message; });
  slider.addEventListener("input", turn);
  plane.addEventListener("change", reload);
  window.addEventListener("change", reload);
  await load();
  medium.picture = element("span", { class: "frame" }, image);
  place.replaceChildren(medium.picture,
    element("div", { class: "row" }, element("label", { class: "grow" }, "Slice", slider)),
    element("div", { class: "row" }, plane.parentElement, window.parentElement), note);
}

function choice(label, values) {
  const select = element("select", {}, ...values.map((value) => element("option", { value }, value.replaceAll("_", " "))));
  element("label", {}, label, select);
  return select;
}

/** Base64 of little-endian float32 -> Float32Array. */
function floats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
