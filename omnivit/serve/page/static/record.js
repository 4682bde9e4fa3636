// Recording: the microphone as a WAV file that is encoded here, and one picture of the camera.

import { element } from "./dom.js";

const RATE = 16000;

/** Record until `stop()` is called; the result is a WAV file of one channel with 16,000 Hz. */
export async function record() {
  const input = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(input);
  const pieces = [];
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.start();
  return {
    async stop() {
      await new Promise((resolve) => {
        recorder.addEventListener("stop", resolve, { once: true });
        recorder.stop();
      });
      input.getTracks().forEach((track) => track.stop());
      const bytes = await new Blob(pieces, { type: recorder.mimeType }).arrayBuffer();
      const samples = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes); // resampled to RATE
      return new File([wav(mono(samples), RATE)], "recording.wav", { type: "audio/wav" });
    },
  };
}

function mono(samples) {
  const mean = new Float32Array(samples.length);
  for (let channel = 0; channel < samples.numberOfChannels; channel += 1) {
    samples.getChannelData(channel).forEach((value, at) => { mean[at] += value / samples.numberOfChannels; });
  }
  return mean;
}

/** Float samples -> a WAV file of 16-bit PCM, as described in the RIFF WAVE specification. */
export function wav(samples, rate) {
  const bytes = new ArrayBuffer(44 + samples.length * 2);
  const view = new DataView(bytes);
  const text = (at, characters) => [...characters].forEach((character, number) => view.setUint8(at + number, character.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // size of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per frame
  view.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  view.setUint32(40, samples.length * 2, true);
  samples.forEach((value, at) => view.setInt16(44 + at * 2, Math.round(Math.max(-1, Math.min(1, value)) * 32767), true));
  return bytes;
}

/** Show the camera in a dialog; the picture that the user takes is the result, null if it was cancelled. */
export async function photograph() {
  const input = await navigator.mediaDevices.getUserMedia({ video: true });
  const video = element("video", { srcObject: input, muted: true, playsInline: true, autoplay: true, "aria-label": "Camera" });
  const dialog = element("dialog", { "aria-label": "Take a picture" },
    element("form", { method: "dialog" }, video,
      element("div", { class: "dialog-tools" },
        element("button", { value: "cancel" }, "Cancel"), element("button", { value: "take", class: "primary" }, "Take the picture"))));
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  input.getTracks().forEach((track) => track.stop());
  dialog.remove();
  if (dialog.returnValue !== "take") return null;
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "camera.png", { type: "image/png" });
}
