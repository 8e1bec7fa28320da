"use strict";
// Names and values of runs are data: they reach the page through textContent alone.
const data = JSON.parse(document.getElementById("data").textContent);
const body = document.querySelector("#runs tbody");
const heads = [...document.querySelectorAll("#runs th")];
const panel = document.getElementById("run");

function make(tag, text, parent, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  if (parent) parent.append(element);
  return element;
}

// --- the table of runs -----------------------------------------------------------------------------------------------
function valueOf(row, column) {
  const cell = row.cells[column];
  if (!("v" in cell.dataset)) return cell.textContent.toLowerCase();
  return cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
}

function sortBy(column) {
  const up = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
  const keyed = [...body.rows].map((row) => [valueOf(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown last, either way
    return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
  });
  body.append(...keyed.map(([, row]) => row));
}

const compare = {
  "=": (a, b) => a === b, "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
};

function test(word) {
  const parts = /^([a-z_]+)(<=|>=|<|>|=)(.+)$/.exec(word);
  const column = parts ? heads.findIndex((head) => head.dataset.key === parts[1]) : -1;
  if (column < 0) return (row) => row.textContent.toLowerCase().includes(word);
  return (row) => {
    const value = valueOf(row, column);
    return compare[parts[2]](value, typeof value === "number" ? Number(parts[3]) : parts[3]);
  };
}

function filter(text) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map(test);
  let shown = 0;
  for (const row of body.rows) {
    row.hidden = !tests.every((holds) => holds(row));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${body.rows.length}`;
}

// --- one run ---------------------------------------------------------------------------------------------------------
function chart(name, tokens, values, parent) {
  const points = values.map((value, i) => [tokens[i], value]).filter(([, value]) => value !== null);
  if (points.length < 2) return;
  const [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const end = tokens[tokens.length - 1];
  const x = (at) => (380 * at) / end;
  const y = (value) => 104 - (96 * (value - low)) / (high - low || 1);
  const head = make("h3", name === "loss" ? "training loss" : name, parent);
  make("small", `${points[points.length - 1][1].toPrecision(4)} at ${end.toLocaleString("en")} tokens`, head);
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 380 120");
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    svg.append(element);
  };
  draw("line", { x1: 0, x2: 380, y1: 104, y2: 104 });
  draw("path", { d: points.map(([at, value], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") });
  draw("text", { x: 380, y: 12, "text-anchor": "end" }, high.toPrecision(3));
  draw("text", { x: 380, y: 117, "text-anchor": "end" }, low.toPrecision(3));
  parent.append(svg);
}

function facts(title, known, own, parent) {
  const shown = (value) => (value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
  const lines = [
    ...known.keys.map((key, i) => [key, own[i], "own"]),
    ...Object.entries(known.common).map(([key, value]) => [key, value, ""]),
  ];
  if (!lines.length) return;
  const head = make("h3", title, parent);
  if (known.keys.length) make("small", "bold: not the same in all runs", head);
  const table = make("table", undefined, parent);
  for (const [key, value, kind] of lines) {
    const row = make("tr", undefined, table, kind);
    make("td", key, row);
    make("td", shown(value), row);
  }
}

function pick(name) {
  document.querySelectorAll(".picked").forEach((element) => element.classList.remove("picked"));
  const run = Object.hasOwn(data.runs, name) ? data.runs[name] : null;
  panel.hidden = !run;
  if (!run) return;
  document.getElementById(name).classList.add("picked");
  document.querySelectorAll(`svg a[href="#${name}"]`).forEach((link) => link.classList.add("picked"));
  document.getElementById("run-name").textContent = document.getElementById(name).cells[0].textContent;
  document.getElementById("run-source").textContent = run.source;
  const [curves, known] = ["run-curves", "run-facts"].map((id) => document.getElementById(id));
  curves.replaceChildren();
  known.replaceChildren();
  const { tokens, ...quantities } = run.curve;
  for (const [quantity, values] of Object.entries(quantities)) chart(quantity, tokens, values, curves);
  facts("result", data.result, run.result, known);
  if (run.config.some((value) => value !== null)) facts("config.yaml", data.config, run.config, known);
  panel.scrollTop = 0;
}

function show(name) {
  history.replaceState(null, "", `#${name}`);
  pick(name);
}

// --- the reader's hand -----------------------------------------------------------------------------------------------
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(column)));
document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
document.getElementById("close").addEventListener("click", () => show(""));
document.addEventListener("keydown", (event) => event.key === "Escape" && show(""));
window.addEventListener("hashchange", () => pick(location.hash.slice(1)));
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#run-"]');
  const row = event.target.closest("#runs tbody tr");
  if (!link && !row) return;
  event.preventDefault(); // the run opens beside the place where it was clicked, without a jump
  show(link ? link.getAttribute("href").slice(1) : row.id);
});
for (const link of document.querySelectorAll('svg a[href^="#run-"]')) {
  const row = document.getElementById(link.getAttribute("href").slice(1));
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = [...row.cells].map((cell, i) => `${heads[i].textContent} ${cell.textContent}`).join("\n");
  link.prepend(title);
  link.setAttribute("tabindex", "-1"); // the keyboard has the table
}
pick(location.hash.slice(1));
