// The form: media by upload, drop, paste, microphone and camera, and the question.

import { announce, byId, element, showProblem } from "./dom.js";
import { filesOf, mediaOf } from "./files.js";
import { figure, medium, nameOf } from "./media.js";
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
    document.addEventListener("paste", (event) => this.take(event.clipboardData, event));
    this.setUpDrop();
  }

  /** Buttons of a slot: its files; a folder for volumes; the microphone for audio; the camera for images. */
  buttons({ slot, modality, suffixes = [] }) {
    const isVolume = modality === "volume"; // DICOM files often have no suffix, and a series is a folder of them
    const buttons = this.chooser(`file-${slot}`, `+ ${slot}`, `Add a file: ${slot}`, slot, { accept: isVolume ? "" : suffixes.join(",") });
    if (isVolume) buttons.push(...this.chooser(`folder-${slot}`, "Folder", `Add a folder of DICOM files: ${slot}`, slot, { webkitdirectory: true }));
    const canRecord = Boolean(navigator.mediaDevices?.getUserMedia);
    if (canRecord && modality === "audio" && globalThis.MediaRecorder) buttons.push(this.recordButton(slot));
    if (canRecord && modality === "image") {
      buttons.push(element("button", { type: "button", class: "small", "aria-label": `Take a picture: ${slot}`, onclick: () => this.fromDevice(async () => {
        const file = await photograph();
        if (file) this.add(slot, [file]);
      }) }, "Camera"));
    }
    return buttons;
  }

  /** A button that lets the user choose files. */
  chooser(id, text, label, slot, properties) {
    const field = element("input", { type: "file", multiple: true, hidden: true, id, ...properties });
    field.addEventListener("change", () => {
      this.addAll([...field.files], slot);
      field.value = "";
    });
    return [field, element("button", { type: "button", class: "small", "aria-label": label, onclick: () => field.click() }, text)];
  }

  recordButton(slot) {
    let recording = null;
    const button = element("button", { type: "button", class: "small", "aria-pressed": "false", "aria-label": `Record: ${slot}` }, "Record");
    const show = () => {
      button.textContent = recording ? "Stop recording" : "Record";
      button.setAttribute("aria-label", `${button.textContent}: ${slot}`);
      button.setAttribute("aria-pressed", String(Boolean(recording)));
    };
    button.addEventListener("click", () => this.fromDevice(async () => {
      const ended = recording;
      recording = ended ? null : await record();
      show();
      if (ended) this.add(slot, [await ended.stop()]); // a recording that cannot be read is lost, but the next one works
      else announce("Recording");
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

  /** Add files to the question, as one medium. */
  add(slot, files) {
    const { modality } = this.inputs.find((each) => each.slot === slot);
    const added = medium(slot, modality, files);
    this.media.push(added);
    this.showMedia();
    announce(`${nameOf(added)} is added as ${slot}`);
  }

  /** Add files: to a slot, or each to the one that fits best. */
  async addAll(files, slot = null) {
    for (const group of await mediaOf(files, this.inputs, slot)) this.add(group.slot, group.files);
  }

  /** Files that were pasted or dropped. */
  async take(transfer, event) {
    if (!transfer?.files.length) return;
    event.preventDefault();
    if (!this.inputs.length) {
      showProblem("This model takes text only.");
      return;
    }
    try {
      await this.addAll(await filesOf(transfer));
    } catch (error) {
      showProblem(`The files cannot be read: ${error.message}`);
    }
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
      this.take(event.dataTransfer, event);
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
