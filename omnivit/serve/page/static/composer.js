// The form: media by upload, drop, paste, microphone and camera, and the question.

import { announce, byId, element, showProblem } from "./dom.js";
import { figure, slotsFor } from "./media.js";
import { photograph, record } from "./record.js";

/** The form below the conversation. Set `onAsk` and `onStop`. */
export class Composer {
  constructor(inputs) {
    this.inputs = inputs;
    this.media = [];
    this.sample = undefined;
    this.isBusy = false;
    this.field = byId("question");
    byId("slots").replaceChildren(...inputs.flatMap((input) => this.buttons(input)));
    byId("composer").addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.submit(); }
    });
    this.field.addEventListener("input", () => this.grow());
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && this.isBusy) this.onStop(); });
    document.addEventListener("paste", (event) => this.take(event.clipboardData.files, event));
    this.setUpDrop();
  }

  /** Buttons of a slot: its files; the microphone for audio; the camera for images. */
  buttons(input) {
    const chooser = element("input", { type: "file", multiple: true, hidden: true, id: `file-${input.slot}`, accept: (input.suffixes ?? []).join(",") });
    chooser.addEventListener("change", () => {
      [...chooser.files].forEach((file) => this.add(input.slot, file));
      chooser.value = "";
    });
    const upload = element("button", { type: "button", class: "small", "aria-label": `Add a file: ${input.slot}`, onclick: () => chooser.click() }, `+ ${input.slot}`);
    const more = [];
    const canRecord = Boolean(navigator.mediaDevices?.getUserMedia);
    if (canRecord && input.modality === "audio" && globalThis.MediaRecorder) more.push(this.recordButton(input.slot));
    if (canRecord && input.modality === "image") {
      more.push(element("button", { type: "button", class: "small", onclick: () => this.fromDevice(async () => {
        const file = await photograph();
        if (file) this.add(input.slot, file);
      }) }, "Camera"));
    }
    return [chooser, upload, ...more];
  }

  recordButton(slot) {
    let recording = null;
    const button = element("button", { type: "button", class: "small", "aria-pressed": "false" }, "Record");
    button.addEventListener("click", () => this.fromDevice(async () => {
      if (recording) {
        const file = await recording.stop();
        recording = null;
        this.add(slot, file);
      } else {
        recording = await record();
        announce("Recording");
      }
      button.textContent = recording ? "Stop recording" : "Record";
      button.setAttribute("aria-pressed", String(Boolean(recording)));
    }));
    return button;
  }

  async fromDevice(action) {
    try {
      await action();
    } catch (error) {
      const reasons = { NotAllowedError: "This page may not use the device. Allow it in the browser's settings for this page.", NotFoundError: "There is no such device." };
      showProblem(reasons[error.name] ?? `The device cannot be used: ${error.message}`);
    }
  }

  /** Add a file to the question. */
  add(slot, file) {
    const input = this.inputs.find((each) => each.slot === slot);
    this.media.push({ slot, modality: input.modality, file });
    this.showMedia();
    announce(`${file.name} is added as ${slot}`);
  }

  /** Files that were pasted or dropped: each goes to the slot that fits best. */
  take(files, event) {
    if (!files.length) return;
    event.preventDefault();
    if (!this.inputs.length) return showProblem("This model takes text only.");
    [...files].forEach((file) => this.add(slotsFor(file, this.inputs)[0].slot, file));
    return undefined;
  }

  setUpDrop() {
    const place = byId("drop");
    let depth = 0;
    const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragenter", (event) => { if (isFile(event)) { depth += 1; place.hidden = false; } });
    addEventListener("dragleave", (event) => { if (isFile(event)) { depth -= 1; place.hidden = depth <= 0; } });
    addEventListener("dragover", (event) => { if (isFile(event)) event.preventDefault(); });
    addEventListener("drop", (event) => {
      depth = 0;
      place.hidden = true;
      this.take(event.dataTransfer?.files ?? [], event);
    });
  }

  showMedia() {
    byId("attached").replaceChildren(...this.media.map((medium) => figure(medium, () => {
      this.media = this.media.filter((each) => each !== medium);
      this.showMedia();
      this.field.focus();
    })));
  }

  submit() {
    const text = this.field.value.trim();
    if (this.isBusy) return;
    if (!text) { showProblem("Type a question first."); this.field.focus(); return; }
    const turn = { text, media: this.media, sample: this.sample };
    this.clear();
    this.onAsk(turn);
  }

  fill(turn) {
    this.media = turn.media;
    this.showMedia();
    this.fillText(turn.text, turn.sample);
  }

  fillText(text, sample) {
    this.sample = sample;
    this.field.value = text;
    this.grow();
    this.field.focus();
  }

  clear() {
    this.media = [];
    this.sample = undefined;
    this.field.value = "";
    this.showMedia();
    this.grow();
  }

  /** Whether an answer grows: then there is a button that stops it instead of the one that asks. */
  busy(is) {
    const [shown, gone] = is ? [byId("stop"), byId("send")] : [byId("send"), byId("stop")];
    const hadFocus = document.activeElement === gone;
    this.isBusy = is;
    shown.hidden = false;
    gone.hidden = true;
    if (hadFocus) (is ? shown : this.field).focus();
  }

  grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }
}
