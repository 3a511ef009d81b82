"use strict";
// Speed-up against quality at one NFE: from easy on the left to hard on the right. Lines where it is
// known, triangles where only a bound is; the baseline is the line of 1x.

function drawLevels(box, chart, looks, hidden, say) {
  const number = (value) => Number(value ?? NaN);
  const lines = chart.lines.filter((line) => !hidden.has(line.look));
  const caption = html("figcaption", {}, box, `NFE ${chart.nfe} `);
  html("span", {}, caption, `${chart.metric}, ${chart.lower ? "lower" : "higher"} is better`);
  const levels = chart.levels, ends = [levels[0], levels[levels.length - 1]];
  if (levels.length < 2 || !lines.length) {
    html("p", { class: "absent" }, box, lines.length ? `Nobody gets further than ${looks[0].name}'s first value.` : "Nothing to draw.");
    return;
  }
  const height = box.parentNode.classList.contains("single") ? 380 : 250;
  const told = lines.map((line) => `${looks[line.look].name} leads: ${line.leads}`).join("; ");
  const { svg, width } = frame(box, height, `Speed-up against quality at NFE ${chart.nfe}. ${told}. Arrow keys read the values.`);
  const known = lines.flatMap((line) => [...line.value, ...line.low, ...line.high]).map(number).filter((v) => v > 0 && isFinite(v));
  const low = Math.max(1 / 64, Math.min(0.8, ...known)) / 1.15, high = Math.min(64, Math.max(1.25, ...known)) * 1.15;
  const plot = { left: 46, right: width - 12, top: 12, bottom: height - 38 };
  const log = Math.min(...ends) > 0;
  const x = scale(...ends, plot.left + 8, plot.right - 6, log);
  const y = scale(low, high, plot.bottom, plot.top, true);
  const clip = (value) => y(Math.min(high / 1.1, Math.max(low * 1.1, value)));
  const steps = high / low > 40 ? [1 / 32, 1 / 8, 1 / 2, 1, 2, 8, 32] : high / low > 6 ? [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16] : [0.5, 0.67, 0.8, 1, 1.25, 1.5, 2, 2.5];
  for (const tick of steps.filter((step) => step >= low && step <= high)) {
    node("path", { d: `M${plot.left} ${y(tick)}H${plot.right}`, stroke: tick === 1 ? "var(--soft)" : "var(--grid)" }, svg);
    node("text", { x: plot.left - 6, y: y(tick) + 4, "text-anchor": "end" }, svg, `${tick <= 0.5 ? "1/" + 1 / tick : tick}×`);
  }
  const across = log ? logTicks(Math.min(...ends), Math.max(...ends)) : evenTicks(Math.min(...ends), Math.max(...ends), 4);
  let free = -Infinity;
  for (const tick of across.sort((a, b) => x(a) - x(b))) {
    node("path", { d: `M${x(tick)} ${plot.bottom}v4`, stroke: "var(--soft)" }, svg);
    const half = 3.4 * short(tick).length;
    if (x(tick) - half < free || x(tick) + half > width) continue;
    node("text", { x: x(tick), y: plot.bottom + 17, "text-anchor": "middle" }, svg, short(tick));
    free = x(tick) + half + 6;
  }
  node("path", { d: `M${plot.left} ${plot.bottom}H${plot.right}`, stroke: "var(--soft)" }, svg);
  node("text", { x: (plot.left + plot.right) / 2, y: plot.bottom + 33, "text-anchor": "middle" }, svg, `${chart.metric} to reach, harder to the right`);
  const last = number(chart.last), within = x(last) >= plot.left && x(last) <= plot.right;
  if (within) node("path", { d: `M${x(last)} ${plot.top}V${plot.bottom}`, stroke: "var(--soft)", "stroke-dasharray": "1 4" }, svg);
  for (const line of lines) {
    const look = looks[line.look];
    const points = levels.map((level, k) => ({
      x: x(level), y: number(line.value[k]), low: number(line.low[k]), high: number(line.high[k]), bound: line.bound[k],
    }));
    const exact = (point) => point.bound === "" && !isNaN(point.y);
    points.forEach((point, k) => {
      const next = points[k + 1];
      if (!next || isNaN(point.y) || isNaN(next.y)) return;
      const sure = exact(point) && exact(next);
      if (sure && point.high >= point.low && next.high >= next.low)
        node("path", {
          d: `M${point.x} ${clip(point.high)}L${next.x} ${clip(next.high)}L${next.x} ${clip(next.low)}L${point.x} ${clip(point.low)}Z`,
          fill: look.colour, opacity: 0.13,
        }, svg);
      if (sure || point.bound === next.bound)
        node("path", {
          d: `M${point.x} ${clip(point.y)}L${next.x} ${clip(next.y)}`, stroke: look.colour,
          "stroke-width": sure ? 1.8 : 0.9, "stroke-dasharray": sure ? look.dash.join(" ") : "2 3",
        }, svg);
    });
    points.forEach((point, k) => {
      if (isNaN(point.y)) return;
      if (!exact(point)) {
        const way = point.bound === ">" ? -1 : 1;
        node("path", { d: `M${point.x - 4} ${clip(point.y)}h8l-4 ${6 * way}z`, fill: "var(--card)", stroke: look.colour, "stroke-width": 1.3 }, svg);
      } else if (k % 3 === 0) mark(look, point.x, clip(point.y), svg);
    });
    if (line.then && line.to !== null)
      node("path", { d: `M${x(line.to)} ${plot.bottom}v-11`, stroke: look.colour, "stroke-width": 3 }, svg);
  }
  const guide = node("path", { stroke: "var(--soft)", "stroke-dasharray": "2 3", visibility: "hidden" }, svg);
  const rows = (level) => {
    const k = levels.indexOf(level);
    return [...lines].sort((a, b) => (number(b.value[k]) || 0) - (number(a.value[k]) || 0))
      .map((line) => [looks[line.look], ...line.told[k].split(/ (?=\[)/), ""].slice(0, 3));
  };
  const heading = (level) => `to reach ${short(level)}: ${looks[0].name} ${chart.images[levels.indexOf(level)]}`;
  reads(box, svg, levels, (level) => {
    guide.setAttribute("visibility", level === null ? "hidden" : "visible");
    if (level !== null) guide.setAttribute("d", `M${x(level)} ${plot.top}V${plot.bottom}`);
  }, x, rows, heading, say, `NFE ${chart.nfe}, `);
}
