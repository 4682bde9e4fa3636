// Boxes, points and masks of an answer, drawn over the image that it is about.

const COLOURS = ["#ff6b4a", "#2fb5a5", "#f5b829", "#7b8cff", "#e35fb2"];

/** Draw over an image.
 *
 * @param frame the element around the image, which is positioned.
 * @param outcome boxes [x0, y0, x1, y1] and points [x, y] in pixels of the image; predictions of heads: a mask is a
 *   list of rows, of which what is above `threshold` is shown.
 */
export function drawOver(frame, { boxes = [], points = [], predictions = [] }) {
  const image = frame.querySelector("img");
  const masks = predictions.map(({ value }) => maskOf(value)).filter(Boolean);
  if (!boxes.length && !points.length && !masks.length) return false;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", described(boxes, points, masks));
  frame.querySelector("canvas")?.remove();
  frame.append(canvas);
  const draw = () => {
    if (!image.naturalWidth || !frame.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [frame.clientWidth * ratio, frame.clientHeight * ratio];
    const context = canvas.getContext("2d");
    const scale = Math.min(canvas.width / image.naturalWidth, canvas.height / image.naturalHeight);
    context.translate((canvas.width - image.naturalWidth * scale) / 2, (canvas.height - image.naturalHeight * scale) / 2);
    masks.forEach((mask, number) => drawMask(context, mask, image, scale, COLOURS[number % COLOURS.length]));
    context.lineWidth = 2.5 * ratio;
    boxes.forEach(([x0, y0, x1, y1], number) => {
      context.strokeStyle = COLOURS[number % COLOURS.length];
      context.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    });
    points.forEach(([x, y], number) => {
      context.fillStyle = COLOURS[number % COLOURS.length];
      context.strokeStyle = "#fff";
      context.beginPath();
      context.arc(x * scale, y * scale, 6 * ratio, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    });
  };
  new ResizeObserver(draw).observe(frame);
  draw();
  return true;
}

function described(boxes, points, masks) {
  const parts = boxes.map((box) => `box from ${box.slice(0, 2).map(Math.round).join(", ")} to ${box.slice(2).map(Math.round).join(", ")}`);
  parts.push(...points.map((point) => `point at ${point.map(Math.round).join(", ")}`));
  if (masks.length) parts.push(`${masks.length} mask${masks.length > 1 ? "s" : ""}`);
  return parts.join("; ");
}

/** The rows of a mask: of a list [H][W] or [1][H][W], or of the entry `mask` or `logits` of a mapping. */
function maskOf(value) {
  if (value && !Array.isArray(value) && typeof value === "object") return maskOf(value.mask ?? value.masks ?? value.logits);
  let rows = value;
  while (Array.isArray(rows) && rows.length === 1 && Array.isArray(rows[0]) && Array.isArray(rows[0][0])) [rows] = rows;
  return Array.isArray(rows) && rows.length > 1 && Array.isArray(rows[0]) && typeof rows[0][0] === "number" ? rows : null;
}

function drawMask(context, rows, image, scale, colour) {
  const threshold = rows.some((row) => row.some((value) => value < 0)) ? 0 : 0.5; // logits, or probabilities
  const [height, width] = [rows.length, rows[0].length];
  const small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  rows.forEach((row, y) => row.forEach((value, x) => {
    if (value > threshold) pixels.data.set([red, green, blue, 130], (y * width + x) * 4);
  }));
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, image.naturalWidth * scale, image.naturalHeight * scale);
}
