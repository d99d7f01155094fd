"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("timeline"), tip = document.getElementById("tip");
const paint = canvas.getContext("2d");
const LEFT = 84, AXIS = 24, DOING = 24, WORK = 18, GAP = 12, LAYER = data.layers.length ? WORK : 0;
const ROW = DOING + WORK + LAYER + GAP;
const LEAST = Math.min(20, data.shown);                   // cycles that the whole width shows at most zoom
const view = {from: 0, to: data.shown};
const units = data.units.map(readUnit);
let colours = readColours();

// A unit's spans by their ends, and what it did and for which instruction (-1: none); `work` joins the spans of
// each instruction, and `layers` what it had of each layer.
function readUnit(unit) {
  const count = unit.lengths.length;
  const spans = {starts: [], ends: [], activities: [], numbers: []}, work = {starts: [], ends: [], numbers: []};
  let cycle = 0, number = -1;
  for (let i = 0; i < count; ++i) {
    number += unit.steps[i];
    spans.starts.push(cycle);
    spans.ends.push(cycle += unit.lengths[i]);
    spans.activities.push(unit.activities[i]);
    spans.numbers.push(number);
    if (number < 0) continue;
    if (work.numbers.length && work.numbers[work.numbers.length - 1] === number) {
      work.ends[work.ends.length - 1] = cycle;
    } else {
      work.numbers.push(number);
      work.starts.push(spans.starts[i]);
      work.ends.push(cycle);
    }
  }
  return {name: unit.name, spans, work, layers: readLayers(work)};
}

function readLayers(work) {
  const layers = {starts: [], ends: [], numbers: []};
  if (!LAYER) return layers;
  work.numbers.forEach((number, i) => {
    const layer = data.layer_of[number], last = layers.numbers.length - 1;
    if (last >= 0 && layers.numbers[last] === layer) {
      layers.ends[last] = work.ends[i];
    } else {
      layers.numbers.push(layer);
      layers.starts.push(work.starts[i]);
      layers.ends.push(work.ends[i]);
    }
  });
  return layers;
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue("--" + name).trim();
  return {activities: data.activities.map(name => colour(name.toLowerCase())),
          ...Object.fromEntries(["ink", "faint", "rule", "track", "work", "work2"].map(name => [name, colour(name)]))};
}

// Number of the first span that ends after `cycle`.
function find(ends, cycle) {
  let low = 0, high = ends.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ends[middle] > cycle) high = middle; else low = middle + 1;
  }
  return low;
}

const width = () => canvas.clientWidth - LEFT;
const toX = cycle => LEFT + (cycle - view.from) / (view.to - view.from) * width();
const toCycle = x => view.from + (x - LEFT) * (view.to - view.from) / width();       // exact at a pixel per cycle

let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; draw(); });
}

function draw() {
  const ratio = window.devicePixelRatio || 1, height = AXIS + ROW * units.length;
  canvas.style.height = height + "px";
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(height * ratio);
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.font = "12px system-ui, sans-serif";
  paint.textBaseline = "middle";
  drawAxis(height);
  units.forEach((unit, i) => {
    const top = AXIS + i * ROW;
    paint.fillStyle = colours.ink;
    paint.textAlign = "left";
    paint.fillText(unit.name, 0, top + DOING / 2);
    drawDoing(unit.spans, top, ratio);
    drawBlocks(unit.work, top + DOING + 1, i => i % 2, i => instructionOf(unit, i));
    drawBlocks(unit.layers, top + DOING + WORK + 1, i => unit.layers.numbers[i] % 2,
               i => data.layers[unit.layers.numbers[i]]);
  });
}

function drawAxis(height) {
  const raw = (view.to - view.from) / Math.max(1, width() / 110), decade = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(1, decade * [1, 2, 5, 10].find(factor => factor * decade >= raw));
  paint.textAlign = "center";
  for (let cycle = Math.ceil(view.from / step) * step; cycle <= view.to; cycle += step) {
    const x = toX(cycle), text = Math.round(cycle).toLocaleString("en"), half = paint.measureText(text).width / 2;
    paint.fillStyle = colours.rule;
    paint.fillRect(x, AXIS - 6, 1, height - AXIS);
    paint.fillStyle = colours.faint;
    paint.fillText(text, Math.min(Math.max(x, LEFT + half), canvas.clientWidth - half), 8);
  }
  paint.textAlign = "left";
  paint.fillText("cycle", 0, 8);
}

// A column of pixels shows how much of its cycles each activity has.
function drawDoing(spans, top, ratio) {
  const columns = Math.floor(width() * ratio), per = (view.to - view.from) / columns;
  const shares = new Float64Array(data.activities.length);
  paint.fillStyle = colours.track;
  paint.fillRect(LEFT, top, width(), DOING);
  let i = find(spans.ends, view.from);
  for (let column = 0; column < columns; ++column) {
    const from = view.from + column * per, to = from + per;
    shares.fill(0);
    for (; i < spans.ends.length && spans.starts[i] < to; ++i) {
      shares[spans.activities[i]] += Math.min(to, spans.ends[i]) - Math.max(from, spans.starts[i]);
      if (spans.ends[i] > to) break;
    }
    let bottom = top + DOING;
    for (let activity = 1; activity < shares.length; ++activity) {         // 0 is IDLE: nothing
      const tall = shares[activity] / per * DOING;
      if (!tall) continue;
      paint.fillStyle = colours.activities[activity];
      paint.fillRect(LEFT + column / ratio, bottom - tall, 1 / ratio, tall);
      bottom -= tall;
    }
  }
}

const instructionOf = (unit, i) =>
  (unit.name === "FETCH" ? data.instructions[unit.work.numbers[i]].split(" ", 1)[0] + " " : "") + "#" + unit.work.numbers[i];

function drawBlocks({starts, ends}, top, isOdd, textOf) {
  let drawn = LEFT;
  paint.textAlign = "left";
  for (let i = find(ends, view.from); i < ends.length && starts[i] < view.to; ++i) {
    const x0 = Math.max(drawn, toX(starts[i])), x1 = Math.min(toX(ends[i]), canvas.clientWidth);
    if (x1 - drawn < 0.5) continue;
    drawn = x1;
    paint.fillStyle = isOdd(i) ? colours.work2 : colours.work;
    paint.fillRect(x0, top, x1 - x0, WORK - 2);
    const text = textOf(i);
    if (x1 - x0 < 20 || paint.measureText(text).width > x1 - x0 - 6) continue;
    paint.fillStyle = colours.ink;
    paint.fillText(text, x0 + 3, top + WORK / 2 - 1);
  }
}

// What the pointer is on, as [bold line, lines, code]; null for nothing.
function look(x, y) {
  const unit = units[Math.floor((y - AXIS) / ROW)], cycle = toCycle(x), row = (y - AXIS) % ROW;
  if (!unit || x < LEFT || row >= DOING + WORK + LAYER) return null;
  const list = row < DOING ? unit.spans : row < DOING + WORK ? unit.work : unit.layers, i = find(list.ends, cycle);
  if (i >= list.ends.length || list.starts[i] > cycle) return null;
  const from = list.starts[i], to = list.ends[i], number = list.numbers[i];
  const cycles = `${(to - from).toLocaleString("en")} cycles: ${from.toLocaleString("en")} to ${(to - 1).toLocaleString("en")}`;
  if (list === unit.layers) return [unit.name + ", layer " + data.layers[number], [cycles], ""];
  const what = row < DOING ? data.activities[list.activities[i]] + ": " + data.meanings[list.activities[i]]
                           : "instruction #" + number;
  const lines = [cycles];
  if (number >= 0 && row < DOING) lines.push("instruction #" + number);
  if (number >= 0 && data.layers.length) lines.push("layer " + data.layers[data.layer_of[number]]);
  return [unit.name + ", " + what, lines, number >= 0 ? data.instructions[number] : ""];
}

function showTip(event) {
  const box = canvas.getBoundingClientRect();
  const found = look(event.clientX - box.left, event.clientY - box.top);
  tip.hidden = !found;
  if (!found) return;
  const element = (kind, text) => Object.assign(document.createElement(kind), {textContent: text});
  tip.replaceChildren(element("b", found[0]), ...found[1].map(line => element("span", line)),
                      ...(found[2] ? [element("code", found[2])] : []));
  const right = innerWidth - tip.offsetWidth - 8, below = event.clientY + 18;
  tip.style.left = Math.max(8, Math.min(event.clientX + 14, right)) + "px";
  tip.style.top = (below + tip.offsetHeight < innerHeight ? below : Math.max(8, event.clientY - tip.offsetHeight - 12)) + "px";
}

function show(from, length) {
  length = Math.min(Math.max(length, LEAST), data.shown);
  view.from = Math.min(Math.max(from, 0), data.shown - length);
  view.to = view.from + length;
  redraw();
}

function zoom(factor, cycle) {
  const length = Math.min(Math.max((view.to - view.from) * factor, LEAST), data.shown);
  show(cycle - (cycle - view.from) * length / (view.to - view.from), length);
}

const move = cycles => show(view.from + cycles, view.to - view.from);

canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
  zoom(Math.exp(pixels * 0.002), toCycle(Math.max(LEFT, event.offsetX)));
  showTip(event);
}, {passive: false});
canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", event => {
  if (event.buttons & 1) move(-event.movementX / width() * (view.to - view.from));
  showTip(event);
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("dblclick", () => show(0, data.shown));
canvas.addEventListener("keydown", event => {
  const length = view.to - view.from, middle = (view.from + view.to) / 2;
  const action = {"+": () => zoom(0.5, middle), "=": () => zoom(0.5, middle), "-": () => zoom(2, middle),
                  ArrowLeft: () => move(-length / 8), ArrowRight: () => move(length / 8),
                  0: () => show(0, data.shown)}[event.key];
  if (!action || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  action();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = readColours(); redraw(); });
new ResizeObserver(redraw).observe(canvas);
if (data.shown) redraw(); else canvas.hidden = true;
