// Boxes, points and masks of an answer, drawn over the image that it is about. What a head predicts has no type: its
// form says what it is. [H, W] is a mask, four numbers are a box, two are a point; between 0 and 1 they are shares of
// the image's sides, else pixels. A mapping may name them: box, boxes, point, points, mask, masks, logits.

const COLOURS = ["#ff6b4a", "#2fb5a5", "#f5b829", "#7b8cff", "#e35fb2"];

/** Draw over an image.
 *
 * @param frame the element around the image, which is positioned.
 * @param outcome boxes [x0, y0, x1, y1] and points [x, y] in pixels of the image; predictions of heads.
 */
export function drawOver(frame, outcome) {
  const image = frame.querySelector("img");
  const size = [image.fullWidth ?? image.naturalWidth, image.fullHeight ?? image.naturalHeight];
  const predicted = outcome.predictions.map(({ value }) => shapesOf(value, size));
  const boxes = [...outcome.boxes, ...predicted.flatMap((shapes) => shapes.boxes)];
  const points = [...outcome.points, ...predicted.flatMap((shapes) => shapes.points)];
  const masks = predicted.flatMap((shapes) => shapes.masks);
  frame.querySelector("canvas")?.remove();
  if (!boxes.length && !points.length && !masks.length) return;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", described(boxes, points, masks));
  frame.append(canvas);
  const draw = () => {
    if (!image.naturalWidth || !frame.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [frame.clientWidth * ratio, frame.clientHeight * ratio];
    const context = canvas.getContext("2d");
    const [width, height] = size;
    const scale = Math.min(canvas.width / width, canvas.height / height);
    context.translate((canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
    masks.forEach((mask, number) => drawMask(context, mask, width * scale, height * scale, COLOURS[number % COLOURS.length]));
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
}

function described(boxes, points, masks) {
  const parts = boxes.map((box) => `box from ${box.slice(0, 2).map(Math.round).join(", ")} to ${box.slice(2).map(Math.round).join(", ")}`);
  parts.push(...points.map((point) => `point at ${point.map(Math.round).join(", ")}`));
  if (masks.length) parts.push(`${masks.length} mask${masks.length > 1 ? "s" : ""}`);
  return parts.join("; ");
}

/** What a prediction is: {boxes, points} in pixels, {masks}. */
function shapesOf(value, size) {
  const shapes = { boxes: [], points: [], masks: [] };
  const take = (given) => {
    if (!Array.isArray(given)) {
      const known = given && typeof given === "object" ? ["box", "boxes", "point", "points", "mask", "masks", "logits"] : [];
      known.forEach((name) => take(given[name]));
    } else if (isNumbers(given) && given.length === 4) shapes.boxes.push(inPixels(given, size));
    else if (isNumbers(given) && given.length === 2) shapes.points.push(inPixels(given, size));
    else if (given.length > 1 && given.every((row) => isNumbers(row) && row.length === given[0].length && ![2, 4].includes(row.length))) shapes.masks.push(given);
    else given.forEach((part) => { if (Array.isArray(part)) take(part); });
  };
  take(value);
  return shapes;
}

const isNumbers = (given) => Array.isArray(given) && given.length > 0 && given.every((each) => typeof each === "number");

const inPixels = (numbers, size) => (numbers.every((each) => each >= 0 && each <= 1) ? numbers.map((each, at) => each * size[at % 2]) : numbers);

function drawMask(context, rows, shownWidth, shownHeight, colour) {
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
  context.drawImage(small, 0, 0, shownWidth, shownHeight);
}
