// The desk: the table of runs, and below it what the chosen ones have to compare.

import { offerRuns, setUpAnswers } from "./answers.js";
import { get } from "./api.js";
import { chart, COLOURS } from "./chart.js";
import { byId, element, setUpTheme, showProblem } from "./dom.js";

const [OFTEN, SELDOM] = [4000, 20000];
const FIRST_CHOSEN = 3;
const state = { runs: [], chosen: new Set(), colours: new Map(), curves: new Map(), results: "" };

async function start() {
  setUpTheme(byId("theme"));
  setUpAnswers();
  for (const id of ["curve", "log", "smooth"]) byId(id).addEventListener("change", drawCurves);
  await refresh();
  document.body.dataset.ready = "true";
}

/** Read the runs again; more often while one is running, and not while the page is hidden. */
async function refresh() {
  try {
    if (!document.hidden) await load();
  } catch (error) {
    showProblem(error.message);
  }
  setTimeout(refresh, state.runs.some((run) => run.state === "running") ? OFTEN : SELDOM);
}

async function load() {
  const { folder, runs } = await get("/desk/runs");
  const first = state.runs.length === 0;
  const before = new Map(state.runs.map((run) => [run.id, JSON.stringify(run)]));
  runs.filter((run) => before.get(run.id) !== JSON.stringify(run)).forEach((run) => state.curves.delete(run.id));
  state.runs = runs;
  if (first) runs.slice(0, FIRST_CHOSEN).forEach((run) => state.chosen.add(run.id));
  runs.forEach((run) => { if (!state.colours.has(run.id)) state.colours.set(run.id, COLOURS[state.colours.size % COLOURS.length]); });
  const running = runs.filter((run) => run.state === "running").length;
  byId("facts").textContent = `${runs.length} in the folder ${folder}${running ? `, ${running} running` : ""}`;
  drawRuns();
  await drawChosen();
}

const chosenRuns = () => state.runs.filter((run) => state.chosen.has(run.id));

function drawRuns() {
  const body = byId("runs").querySelector("tbody");
  const focused = document.activeElement?.dataset?.run;
  body.replaceChildren(...state.runs.map(row));
  if (!state.runs.length) body.append(element("tr", {}, element("td", { colSpan: 8, class: "quiet" }, "There is no run in this folder yet. `omnivit train RECIPE` creates one; it appears here.")));
  if (focused) body.querySelector(`[data-run="${focused}"]`)?.focus();
}

function row(run) {
  const box = element("input", { type: "checkbox", checked: state.chosen.has(run.id), "aria-label": `Show ${run.name}`, "data-run": run.id });
  box.addEventListener("change", () => {
    if (box.checked) state.chosen.add(run.id);
    else state.chosen.delete(run.id);
    drawRuns();
    drawChosen();
  });
  const swatch = element("span", { class: "swatch" });
  if (state.chosen.has(run.id)) swatch.style.background = state.colours.get(run.id);
  const { accuracy } = run;
  return element("tr", {},
    element("td", {}, box), element("td", {}, swatch, run.name),
    element("td", {}, element("span", { class: `state ${run.state}` }, run.state)), element("td", {}, run.stage ?? ""),
    element("td", {}, run.steps ? `${run.step} of ${run.steps}` : `${run.step}`),
    element("td", { class: "number" }, run.loss === null ? "" : run.loss.toFixed(3)),
    element("td", { class: "number" }, accuracy ? percent(accuracy.mean) : ""),
    element("td", {}, new Date(run.created).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })));
}

async function drawChosen() {
  try {
    await Promise.all([drawCurves(), drawResults(), offerRuns(chosenRuns())]);
  } catch (error) {
    showProblem(error.message);
  }
}

async function drawCurves() {
  const runs = chosenRuns();
  await Promise.all(runs.filter((run) => !state.curves.has(run.id)).map(async (run) => state.curves.set(run.id, await get(`/desk/runs/${run.id}/curves`))));
  const name = byId("curve").value;
  const series = runs.filter((run) => state.curves.get(run.id)?.curves[name]).map((run) => ({
    name: run.name, colour: state.colours.get(run.id), points: state.curves.get(run.id).curves[name], stages: state.curves.get(run.id).stages,
  }));
  const label = `${byId("curve").selectedOptions[0].text} of ${series.map((each) => each.name).join(", ")}`;
  const drawing = chart(series, { logarithmic: byId("log").checked, smooth: byId("smooth").checked, label });
  const legend = element("div", { class: "legend" }, ...series.map((each) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = each.colour;
    return element("span", {}, swatch, each.name);
  }));
  byId("chart").replaceChildren(...(drawing ? [drawing, legend] : []));
  const gaps = series.filter(({ points }) => points.some((point) => point[1] === null)).map((each) => each.name);
  byId("chart-note").textContent = drawing ? (gaps.length ? `Gaps are values that are not finite: ${gaps.join(", ")}.` : "") : "The chosen runs have no such curve yet.";
}

async function drawResults() {
  const runs = chosenRuns();
  const key = JSON.stringify(runs);
  if (key === state.results) return;
  state.results = key;
  if (!runs.length) {
    byId("tables").replaceChildren(element("p", { class: "quiet" }, "Choose a run above."));
    byId("differences").replaceChildren();
    return;
  }
  const { differences, tables } = await get(`/desk/results?${new URLSearchParams(runs.map((run) => ["run", run.id]))}`);
  byId("tables").replaceChildren(...(tables.length ? tables.map((table) => resultTable(table, runs)) : [element("p", { class: "quiet" }, "The chosen runs have no report yet.")]));
  byId("differences").replaceChildren(differenceTable(differences, runs));
}

const MEDIA = { true: "its own medium", shuffled: "another sample's medium", none: "no medium", linear_probe: "linear probe" };

function resultTable({ metric, rows }, runs) {
  const head = element("tr", {}, element("th", { scope: "col" }, "Asked with"), ...runs.map((run) => element("th", { scope: "col" }, run.name)));
  const body = rows.map(({ condition, values }) => element("tr", {}, element("td", {}, MEDIA[condition] ?? condition), ...values.map((value) => element("td", {}, ...cell(value)))));
  return element("div", {}, element("h3", {}, metric.replaceAll("_", " ")), scrolling(`Table of ${metric}`, head, body));
}

function cell(value) {
  if (!value) return ["–"];
  const share = value.high <= 1 ? percent : (number) => number.toFixed(3);
  const text = `${share(value.mean)} [${share(value.low)}, ${share(value.high)}], n = ${value.n}`;
  if (value.high > 1) return [text];
  const bar = element("span", { class: "interval", "aria-hidden": "true" }, element("i"), element("b"));
  bar.querySelector("i").style.left = `${value.low * 100}%`;
  bar.querySelector("i").style.width = `${(value.high - value.low) * 100}%`;
  bar.querySelector("b").style.left = `${value.mean * 100}%`;
  return [text, bar];
}

function differenceTable(differences, runs) {
  if (runs.length < 2) return element("p", { class: "quiet" }, "Choose two runs or more.");
  if (!differences.length) return element("p", { class: "quiet" }, "The recipes are the same.");
  const head = element("tr", {}, element("th", { scope: "col" }, "Key"), ...runs.map((run) => element("th", { scope: "col" }, run.name)));
  const body = differences.map(({ key, values }) => element("tr", {}, element("td", { class: "key" }, key),
    ...values.map((value) => element("td", { class: "wrap" }, element("span", { class: value === values[0] ? "" : "differs" }, value ?? "–")))));
  return scrolling("Differences between the recipes", head, body);
}

function scrolling(label, head, body) {
  return element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": label },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

const percent = (share) => `${(share * 100).toFixed(1)}%`;

start();
