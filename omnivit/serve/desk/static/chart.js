// Curves as SVG: axes with round numbers, one colour a run, the stages' ends as dashed lines.

export const COLOURS = ["#0e8f83", "#d9622b", "#5a6be0", "#b8860b", "#b83b8d", "#3c8c3f", "#7a5230", "#4d8fc4", "#a3452f", "#6d5fae", "#7c8a1f", "#2f6f7e"];
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [960, 320, 56, 12, 12, 34];

function svg(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  if (text) node.textContent = text;
  return node;
}

/** Draw curves.
 *
 * @param series [{name, colour, points: [[step, value or null]], stages: [{name, end}]}]
 * @param options {logarithmic, smooth, label}
 * @returns the SVG, or null where there is nothing to draw.
 */
export function chart(series, { logarithmic, smooth, label }) {
  const usable = (value) => value !== null && (!logarithmic || value > 0);
  const values = series.flatMap(({ points }) => points.map((point) => point[1]).filter(usable));
  if (!values.length) return null;
  const last = Math.max(...series.flatMap(({ points }) => points.map((point) => point[0])), 1);
  const toScale = (value) => (logarithmic ? Math.log10(value) : value);
  let [low, high] = [Math.min(...values), Math.max(...values)].map(toScale);
  const margin = (high - low || Math.abs(high) || 1) * 0.05;
  [low, high] = [low - margin, high + margin];
  const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - toScale(value)) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const tick of logarithmic ? powers(low, high) : ticks(low, high, 6)) {
    root.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
    root.append(svg("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of ticks(0, last, 8)) root.append(svg("text", { x: x(tick), y: HEIGHT - 14, "text-anchor": "middle" }, short(tick)));
  root.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT, "text-anchor": "end" }, "step"));
  const ends = new Set(series.flatMap(({ stages }) => stages.slice(0, -1).map((stage) => stage.end)));
  ends.forEach((end) => root.append(svg("line", { class: "stage", x1: x(end), x2: x(end), y1: TOP, y2: HEIGHT - BOTTOM })));
  names(series).forEach(({ name, end }) => root.append(svg("text", { x: x(end) - 5, y: TOP + 10, "text-anchor": "end" }, name)));
  for (const { name, colour, points, stages } of series) {
    if (smooth && points.length > 20) root.append(svg("path", { class: "raw", stroke: colour, d: path(points, usable, x, y) }));
    const line = svg("path", { class: "curve", stroke: colour, d: path(smooth ? smoothed(points, stages.map((stage) => stage.end)) : points, usable, x, y) });
    line.append(svg("title", {}, name));
    root.append(line);
  }
  return root;
}

/** A path through the points; what cannot be drawn (not finite, or not above 0) is a gap. */
function path(points, usable, x, y) {
  let pen = "M";
  return points.map(([step, value]) => {
    if (!usable(value)) { pen = "M"; return ""; }
    const part = `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

/** The stages' names, at their ends: those of runs with several stages, each once. */
function names(series) {
  const stages = series.flatMap((each) => (each.stages.length > 1 ? each.stages : []));
  return [...new Map(stages.map((stage) => [`${stage.name} ${stage.end}`, stage])).values()];
}

/** The mean over neighbours of the same stage: a thirtieth of the curve to each side. A stage may begin with another
 * loss than the last one ended with, and a mean over both would be neither's.
 */
export function smoothed(points, ends) {
  const reach = points.length > 20 ? Math.ceil(points.length / 30) : 0;
  const stageOf = (step) => ends.filter((end) => end < step).length;
  return points.map(([step, value], at) => {
    const near = points.slice(Math.max(0, at - reach), at + reach + 1)
      .filter((point) => point[1] !== null && stageOf(point[0]) === stageOf(step)).map((point) => point[1]);
    return [step, value === null ? null : near.reduce((sum, each) => sum + each, 0) / near.length];
  });
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const marks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) marks.push(Number(tick.toPrecision(12)));
  return marks;
}

function powers(low, high) {
  const marks = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    for (const factor of high - low > 2 ? [1] : [1, 2, 5]) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      if (Math.log10(tick) >= low && Math.log10(tick) <= high) marks.push(tick);
    }
  }
  return marks;
}

const short = (value) => (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5) ? value.toExponential(0) : Number(value.toPrecision(4)).toString());
