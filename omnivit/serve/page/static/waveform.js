// Audio: its waveform, which is also the place to seek, and a play button.

import { colour, element } from "./dom.js";

/** Draw the waveform of an audio file and let the user play it.
 *
 * @param fallback gives a data URL of a WAV file, where the browser cannot decode the file itself.
 */
export async function showWave(file, place, fallback) {
  let source = file;
  let samples;
  try {
    samples = await decode(await file.arrayBuffer());
  } catch {
    const bytes = Uint8Array.from(atob((await fallback()).split(",")[1]), (character) => character.charCodeAt(0));
    source = new Blob([bytes], { type: "audio/wav" });
    samples = await decode(bytes.buffer.slice(0));
  }
  const canvas = element("canvas", { class: "wave", width: 640, height: 144, role: "img", "aria-label": "Waveform" });
  const player = new Audio(URL.createObjectURL(source));
  const play = element("button", { type: "button", class: "small" }, "Play");
  const clock = element("span", { class: "quiet" }, seconds(samples.duration));
  const levels = peaks(samples.getChannelData(0), 160);
  const draw = () => drawWave(canvas, levels, samples.duration ? player.currentTime / samples.duration : 0);
  play.addEventListener("click", () => (player.paused ? player.play() : player.pause()));
  for (const [event, label] of [["play", "Pause"], ["pause", "Play"], ["ended", "Play"]]) {
    player.addEventListener(event, () => { play.textContent = label; });
  }
  player.addEventListener("timeupdate", () => {
    if (!canvas.isConnected) player.pause(); // the medium was removed
    clock.textContent = `${seconds(player.currentTime)} of ${seconds(samples.duration)}`;
    draw();
  });
  canvas.addEventListener("click", (event) => {
    player.currentTime = (event.offsetX / canvas.clientWidth) * samples.duration;
    draw();
  });
  addEventListener("theme", draw);
  draw();
  place.replaceChildren(canvas, element("div", { class: "row" }, play, clock));
}

/** Decode with the browser, without starting an audio device. */
const decode = (buffer) => new OfflineAudioContext(1, 1, 44100).decodeAudioData(buffer);

const seconds = (value) => `${value.toFixed(1)} s`;

function peaks(samples, count) {
  const step = Math.max(1, Math.floor(samples.length / count));
  const levels = Array.from({ length: count }, (_, number) => {
    let peak = 0;
    for (let at = number * step; at < Math.min(samples.length, (number + 1) * step); at += 1) peak = Math.max(peak, Math.abs(samples[at]));
    return peak;
  });
  const loudest = Math.max(...levels) || 1;
  return levels.map((level) => level / loudest);
}

function drawWave(canvas, levels, share) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const step = width / levels.length;
  context.clearRect(0, 0, width, height);
  levels.forEach((level, number) => {
    context.fillStyle = colour(number / levels.length < share ? "--accent" : "--soft");
    const length = Math.max(3, level * height * 0.86);
    context.fillRect(number * step, (height - length) / 2, step * 0.6, length);
  });
}
