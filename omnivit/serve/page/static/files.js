// Files that the user chose, dropped or pasted -> media: which slot each goes to, and which files are one volume.

const PREAMBLE = 132; // bytes of a DICOM file up to the letters DICM
const NO_SLICES = /^(\.|DICOMDIR$|Thumbs\.db$)/; // what lies beside the slices in folders and on discs

/** Files -> [{slot, files}]. DICOM files that come together are the slices of one volume, if the model takes volumes.
 *
 * @param slot to which they go; null: the one that fits each file best.
 */
export async function mediaOf(files, inputs, slot = null) {
  const volumes = inputs.filter((input) => input.modality === "volume");
  const target = slot === null ? volumes[0]?.slot : volumes.find((input) => input.slot === slot)?.slot;
  const kept = files.length > 1 ? files.filter((file) => !NO_SLICES.test(file.name)) : files;
  const slices = new Set();
  if (target) for (const file of kept) if (await isDicom(file)) slices.add(file);
  const media = kept.filter((file) => !slices.has(file)).map((file) => ({ slot: slot ?? slotsFor(file, inputs)[0].slot, files: [file] }));
  return slices.size ? [{ slot: target, files: [...slices] }, ...media] : media;
}

async function isDicom(file) {
  if (file.name.toLowerCase().endsWith(".dcm")) return true;
  const head = new Uint8Array(await file.slice(0, PREAMBLE).arrayBuffer());
  return String.fromCharCode(...head.slice(128)) === "DICM";
}

/** The slots that accept a file, the best first: by its suffix, then by its MIME type, then all others. */
export function slotsFor(file, inputs) {
  const name = file.name.toLowerCase();
  const bySuffix = inputs.filter((input) => (input.suffixes ?? []).some((suffix) => name.endsWith(suffix)));
  const kind = file.type.split("/")[0];
  const byType = inputs.filter((input) => input.modality === kind || (file.type === "application/pdf" && input.modality === "page"));
  const best = [...new Set([...byType.filter((input) => bySuffix.includes(input)), ...bySuffix, ...byType])];
  return best.length ? best : inputs;
}

/** All files of a drop or a paste, those in folders included. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()); // only now: later the items are gone
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.filter(Boolean).map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file(resolve, reject); })];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!part.length) return files;
    files.push(...(await Promise.all(part.map(filesIn))).flat());
  }
}
