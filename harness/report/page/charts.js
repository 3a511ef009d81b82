"use strict";
// Two kinds of chart as SVG: curves (quality along training) and bars (speed-ups). Text is only ever
// set with textContent: labels are whatever people called things.

const SVG = "http://www.w3.org/2000/svg";
const MARKS = {
  o: "M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z",
  s: "M-3.6-3.6H3.6V3.6H-3.6Z",
  D: "M0-5L5 0L0 5L-5 0Z",
  "^": "M0-4.8L4.6 3.4H-4.6Z",
  v: "M0 4.8L4.6-3.4H-4.6Z",
  P: "M-1.6-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",
  X: "M-4.4-2.4L-2.4-4.4L0-2L2.4-4.4L4.4-2.4L2 0L4.4 2.4L2.4 4.4L0 2L-2.4 4.4L-4.4 2.4L-2 0Z",
  "*": "M0-5.6L1.6-1.8L5.6-1.6L2.5 1L3.5 5L0 2.8L-3.5 5L-2.5 1L-5.6-1.6L-1.6-1.8Z",
};

function node(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function html(name, attributes, parent, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function mark(look, x, y, parent) {
  const ring = look.ring;
  return node("path", {
    d: MARKS[look.marker], transform: `translate(${x} ${y})` + (ring ? " scale(1.8)" : ""),
    fill: ring ? "none" : look.colour, stroke: look.colour, "stroke-width": ring ? 0.7 : 0,
  }, parent);
}

function swatch(look, parent) {
  const svg = node("svg", { viewBox: "0 0 26 12", width: 26, height: 12, "aria-hidden": "true" }, parent);
  node("path", { d: "M0 6H26", stroke: look.colour, "stroke-width": 1.8, "stroke-dasharray": look.dash.join(" ") }, svg);
  const drawn = mark(look, 13, 6, svg);
  if (look.ring) drawn.setAttribute("transform", "translate(13 6) scale(1.3)");
}

function short(value) {
  if (!isFinite(value)) return "∞";
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size !== 0 && size < 1e-3) return (+value.toPrecision(3)).toExponential().replace("e-", "e−");
  return String(+value.toPrecision(4));
}

function count(value) {
  return value >= 1e3 && value < 1e6 ? +(value / 1e3).toPrecision(3) + "k" : short(value);
}

function evenTicks(low, high, count) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((part) => part * power >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
  return ticks;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const parts = decades > 2.2 ? [1] : decades > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const part of parts) {
      const tick = +(part * 10 ** power).toPrecision(6);
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  return ticks.length > 1 ? ticks : evenTicks(low, high, 4);
}

// A scale from values to pixels; `log` where every value is positive.
function scale(low, high, from, to, log) {
  const at = log ? Math.log : (value) => value;
  const span = at(high) - at(low) || 1;
  return (value) => from + ((at(value) - at(low)) / span) * (to - from);
}

function frame(box, height, label) {
  const width = Math.max(240, box.clientWidth - 24);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0, "aria-label": label }, box);
  return { svg, width };
}

// Quality of every shown preconditioning at one NFE; `clock` is "images" or "seconds".
function drawCurves(box, chart, looks, hidden, clock, say) {
  const lines = chart.lines.filter((line) => !hidden.has(line.look));
  const points = lines.flatMap((line) => line.images.map((_, k) => ({
    look: looks[line.look], x: line[clock][k], images: line.images[k], seconds: line.seconds[k], seeds: line.seeds[k],
    y: Number(line.median[k] ?? NaN), low: Number(line.low[k] ?? NaN), high: Number(line.high[k] ?? NaN),
  }))).filter((point) => point.x !== null);
  const caption = html("figcaption", {}, box, `NFE ${chart.nfe} `);
  html("span", {}, caption, chart.metric + (chart.lower ? ", lower is better" : ", higher is better"));
  const values = points.flatMap((point) => [point.y, point.low, point.high]).filter(isFinite);
  if (!values.length) {
    html("p", { class: "absent" }, box, clock === "seconds" ? "Seconds of different machines are not compared." : "Nothing to draw.");
    return;
  }
  const height = box.parentNode.classList.contains("single") ? 380 : 230;
  const { svg, width } = frame(box, height, `${chart.metric} at NFE ${chart.nfe} against training ${clock}. Arrow keys read the values.`);
  const log = Math.min(...values) > 0;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = log ? (high / low) ** 0.06 || 1.1 : (high - low) * 0.06 || 1;
  [low, high] = log ? [low / Math.max(margin, 1.01), high * Math.max(margin, 1.01)] : [low - margin, high + margin];
  const ends = points.map((point) => point.x);
  const [first, last] = [Math.min(...ends), Math.max(...ends)];
  const plot = { left: 46, right: width - 10, top: 12, bottom: height - 38 };
  const x = scale(first, last, plot.left + 8, plot.right - 6, false);
  const y = scale(low, high, plot.bottom, plot.top, log);
  for (const tick of log ? logTicks(low, high) : evenTicks(low, high, 4)) {
    node("path", { d: `M${plot.left} ${y(tick)}H${plot.right}`, stroke: "var(--grid)" }, svg);
    node("text", { x: plot.left - 6, y: y(tick) + 4, "text-anchor": "end" }, svg, short(tick));
  }
  for (const tick of evenTicks(first, last, width > 600 ? 8 : 4)) {
    node("path", { d: `M${x(tick)} ${plot.bottom}v4`, stroke: "var(--soft)" }, svg);
    node("text", { x: x(tick), y: plot.bottom + 17, "text-anchor": "middle" }, svg, count(tick));
  }
  node("path", { d: `M${plot.left} ${plot.bottom}H${plot.right}`, stroke: "var(--soft)" }, svg);
  node("text", { x: (plot.left + plot.right) / 2, y: plot.bottom + 33, "text-anchor": "middle" }, svg,
    clock === "images" ? "training images" : "seconds, calibration included");
  for (const line of lines) {
    const look = looks[line.look];
    const own = points.filter((point) => point.look === look);
    const banded = own.filter((point) => isFinite(point.low) && isFinite(point.high));
    if (banded.length > 1) {
      const up = banded.map((point) => `${x(point.x)} ${y(point.high)}`);
      const down = banded.map((point) => `${x(point.x)} ${y(point.low)}`).reverse();
      node("path", { d: `M${[...up, ...down].join("L")}Z`, fill: look.colour, opacity: 0.13 }, svg);
    }
    let path = "", pen = "M";
    for (const point of own) {
      if (!isFinite(point.y)) { pen = "M"; continue; }
      path += `${pen}${x(point.x)} ${y(point.y)}`;
      pen = "L";
    }
    node("path", { d: path, fill: "none", stroke: look.colour, "stroke-width": 1.8, "stroke-dasharray": look.dash.join(" ") }, svg);
    for (const point of own) if (isFinite(point.y)) mark(look, x(point.x), y(point.y), svg);
  }
  const places = [...new Set(ends)].sort((a, b) => a - b);
  const guide = node("path", { stroke: "var(--soft)", "stroke-dasharray": "2 3", visibility: "hidden" }, svg);
  const rows = (place) => points.filter((point) => point.x === place)
    .sort((a, b) => (chart.lower ? 1 : -1) * ((isNaN(a.y) ? Infinity : a.y) - (isNaN(b.y) ? Infinity : b.y)))
    .map((point) => [point.look, isFinite(point.y) ? short(point.y) : "diverged",
      isFinite(point.low) && point.low !== point.high ? `${short(point.low)} – ${short(point.high)}` : ""]);
  const heading = (place) => {
    const point = points.find((each) => each.x === place);
    const seconds = point.seconds === null ? "" : `, ${short(point.seconds)} s`;
    return clock === "images" ? `${point.images.toLocaleString("en")} images` : `${short(point.images)} images${seconds}`;
  };
  reads(box, svg, places, (place) => {
    guide.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place !== null) guide.setAttribute("d", `M${x(place)} ${plot.top}V${plot.bottom}`);
  }, x, rows, heading, say, `NFE ${chart.nfe}, `);
}

// A name in one line, or two that break before a parameter; what does not fit ends in dots.
function folded(name, fits) {
  if (name.length <= fits) return [name];
  const breaks = [...name.matchAll(/(?<=[(,] ?)(?=[^ ])/g)].map((match) => match.index).filter((at) => at && at <= fits);
  const at = breaks.pop() ?? fits;
  const rest = name.slice(at);
  return [name.slice(0, at).trimEnd(), rest.length > fits ? rest.slice(0, fits - 1) + "…" : rest];
}

// Speed-ups at one NFE: bars from 1x with intervals; bounds are open and end in an arrow.
function drawBars(box, chart, looks, hidden, say) {
  const bars = chart.bars.filter((bar) => !hidden.has(bar.look));
  const caption = html("figcaption", {}, box, `NFE ${chart.nfe} `);
  html("span", {}, caption, chart.target === "last" ? "to the baseline's last value" : `to reach ${chart.target}`);
  const numbers = bars.flatMap((bar) => [bar.value, bar.low, bar.high]).map((v) => Number(v ?? NaN)).filter((v) => v > 0 && isFinite(v));
  const reach = Math.min(64, Math.max(1.25, ...numbers, ...numbers.map((v) => 1 / v)));
  const wide = reach ** 1.35;
  const pitch = 28, height = 34 + pitch * bars.length;
  const told = bars.map((bar) => `${looks[bar.look].name} ${bar.told}`).join("; ");
  const { svg, width } = frame(box, height, `Speed-up at NFE ${chart.nfe}: ${told}`);
  const names = Math.min(0.45 * width, 18 + 6.6 * Math.max(...bars.map((bar) => looks[bar.look].name.length)));
  const brief = (bar) => bar.told.split(" [")[0];
  const room = 8 + Math.max(0, ...bars.map((bar) => 7 * brief(bar).length));
  const x = scale(1 / wide, wide, names, width - room - 8, true);
  const clip = (value) => x(Math.min(reach, Math.max(1 / reach, value)));
  const step = [1.1, 1.25, 1.5, 2, 4, 8, 16, 32].filter((tick) => tick < wide).pop() ?? 1.1;
  for (const [tick, text] of [[1 / step, `1/${step}×`], [1, "1×"], [step, `${step}×`]]) {
    node("path", { d: `M${x(tick)} 6V${height - 24}`, stroke: tick === 1 ? "var(--soft)" : "var(--grid)" }, svg);
    node("text", { x: x(tick), y: height - 8, "text-anchor": "middle" }, svg, text);
  }
  const centre = (k) => 20 + pitch * k;
  bars.forEach((bar, k) => {
    const look = looks[bar.look], at = centre(k), value = Number(bar.value ?? NaN);
    const lines = folded(look.name, Math.floor((names - 14) / 6.2));
    lines.forEach((line, n) => node("text", {
      x: names - 10, y: at + 4 + 12 * (n - (lines.length - 1) / 2), "text-anchor": "end", style: "fill: var(--ink)",
    }, svg, line));
    node("text", { x: width - 2, y: at + 4, "text-anchor": "end", style: "fill: var(--ink)" }, svg, brief(bar));
    if (isNaN(value)) return;
    const end = clip(value), open = bar.bound || look.ring;
    node("rect", {
      x: Math.min(x(1), end), y: at - 8, width: Math.max(1, Math.abs(end - x(1))), height: 16, rx: 2,
      fill: open ? "none" : look.colour, "fill-opacity": 0.75, stroke: look.colour, "stroke-dasharray": bar.bound ? "3 2" : "none",
    }, svg);
    const low = bar.bound === "<" ? value : Number(bar.low ?? value);
    const high = bar.bound === ">" ? value : Number(bar.high ?? value);
    if (high > low)
      node("path", { d: `M${clip(low)} ${at - 5}v10m0-5H${clip(high)}m0-5v10`, stroke: "var(--ink)", fill: "none", "stroke-width": 1.4 }, svg);
    const way = bar.bound === "<" ? -1 : bar.bound === ">" ? 1 : 0;
    if (way)
      node("path", { d: `M${end} ${at}h${16 * way}m${-5 * way}-4l${5 * way} 4l${-5 * way} 4`, stroke: look.colour, fill: "none", "stroke-width": 1.8 }, svg);
  });
  const rows = (k) => [[looks[bars[k].look], bars[k].told, `${bars[k].seeds} seed${bars[k].seeds === 1 ? "" : "s"}`]];
  reads(box, svg, bars.map((_, k) => k), () => {}, centre, rows, () => "speed-up", say, `NFE ${chart.nfe}, `, true);
}

// Reading values: the place nearest to the pointer, or the next one by arrow key, told in a box.
function reads(box, svg, places, show, toPixel, rows, heading, say, lead, vertical = false) {
  let chosen = null;
  const tip = html("div", { class: "tip", hidden: "" }, box);
  const choose = (index, aloud) => {
    chosen = index;
    show(index === null ? null : places[index]);
    tip.hidden = index === null;
    if (index === null) return;
    const found = rows(places[index]);
    tip.replaceChildren();
    const table = html("table", {}, tip);
    html("caption", {}, table, heading(places[index]));
    for (const [look, value, range] of found) {
      const row = html("tr", {}, table);
      const name = html("th", { scope: "row" }, row);
      swatch(look, html("span", { class: "swatch" }, name));
      name.append(look.name);
      html("td", {}, row, value);
      html("td", {}, row, range).style.color = "var(--soft)";
    }
    const bounds = svg.getBoundingClientRect(), outer = box.getBoundingClientRect();
    const unit = bounds.width / svg.viewBox.baseVal.width;
    const at = toPixel(places[index]) * unit + (vertical ? bounds.top - outer.top : bounds.left - outer.left);
    if (vertical) {
      tip.style.top = `${at + 16}px`;
      tip.style.left = `${Math.max(8, (outer.width - tip.offsetWidth) / 2)}px`;
    } else {
      const left = at + 14 + tip.offsetWidth > outer.width ? at - 14 - tip.offsetWidth : at + 14;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = "34px";
    }
    if (aloud) say(lead + heading(places[index]) + ": " + found.map(([look, value, range]) => `${look.name} ${value} ${range}`).join("; "));
  };
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const unit = svg.viewBox.baseVal.width / bounds.width;
    const at = (vertical ? event.clientY - bounds.top : event.clientX - bounds.left) * unit;
    let best = 0;
    places.forEach((place, k) => {
      if (Math.abs(toPixel(place) - at) < Math.abs(toPixel(places[best]) - at)) best = k;
    });
    choose(best, false);
  });
  svg.addEventListener("pointerleave", () => choose(null));
  svg.addEventListener("blur", () => choose(null));
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (way) {
      event.preventDefault();
      const next = chosen === null ? (way > 0 ? 0 : places.length - 1) : chosen + way;
      choose(Math.min(places.length - 1, Math.max(0, next)), true);
    } else if (event.key === "Escape") choose(null);
  });
}
