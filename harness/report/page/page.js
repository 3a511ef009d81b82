// Filters, sorting, legend and theme; the charts are drawn again whenever something changes.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const byId = (id) => document.getElementById(id);
  const hidden = new Set();
  const say = (text) => { byId("said").textContent = text; };

  const paint = () => {
    for (const empty of all("th[data-look] > .swatch:empty")) swatch(data.looks[empty.parentNode.dataset.look], empty);
  };
  paint();

  // what a packed block brings: charts, and tables whose swatches are to be painted
  const take = (charts) => {
    for (const [kind, found] of Object.entries(charts)) data[kind].push(...found);
    paint();
  };
  for (const fold of all("details[data-block]")) {
    const fill = () => { if (fold.open) unpack(fold.dataset.block, take)?.catch(() => fold.append(TOO_OLD)); };
    fold.addEventListener("toggle", fill);
    fill();
  }

  // theme: the system's until the button is pressed, then remembered where the browser allows it
  const root = document.documentElement;
  try { if (localStorage.theme) root.dataset.theme = localStorage.theme; } catch { /* a private window */ }
  byId("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
    try { localStorage.theme = root.dataset.theme; } catch { /* a private window */ }
  });

  // sorting: numbers best first, then worst first; rows without a value always last
  document.addEventListener("click", (event) => {
    const button = event.target.closest("table.sorts th button");
    if (!button) return;
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head);
    const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of all("thead th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    const key = (row) => row.children[column].dataset.sort;
    const value = (row) => Number(key(row));
    const compare = button.dataset.kind === "text"
      ? (a, b) => sign * key(a).localeCompare(key(b), "en", { numeric: true })
      : (a, b) => (key(a) === "") - (key(b) === "") || (key(a) === "" ? 0 : sign * (value(a) - value(b) || 0));
    body.append(...[...body.rows].sort(compare));
    say(`sorted by ${button.textContent.trim()}, ${way}`);
  });

  if (!byId("filters")) return;

  const chosen = () => ({
    problem: byId("problem").value,
    protocol: byId("protocol").value,
    nfe: document.querySelector("input[name=nfe]:checked").value,
    clock: document.querySelector("input[name=clock]:checked").value,
  });

  function draw() {
    const { problem, protocol, nfe, clock } = chosen();
    const fits = (chart) => chart.problem == problem && chart.protocol == protocol && (!nfe || chart.nfe == nfe);
    const curves = data.curves.filter(fits), bars = data.speeds.filter(fits), levels = data.levels.filter(fits);
    const fill = (box, charts, one) => {
      box.replaceChildren();
      box.classList.toggle("single", charts.length === 1);
      for (const chart of charts) one(html("figure", {}, box), chart);
    };
    fill(byId("curves"), curves, (box, chart) => drawCurves(box, chart, data.looks, hidden, clock, say));
    fill(byId("bars"), bars, (box, chart) => drawBars(box, chart, data.looks, hidden, say));
    if (levels.length) fill(byId("levels"), levels, (box, chart) => drawLevels(box, chart, data.looks, hidden, say));
  }

  // a metric that the chosen teacher has no number of is not offered
  function offer() {
    const problem = byId("problem").value, options = [...byId("protocol").options];
    const known = new Set(data.curves.filter((chart) => chart.problem == problem).map((chart) => String(chart.protocol)));
    for (const option of options) option.disabled = option.hidden = !known.has(option.value);
    if (byId("protocol").selectedOptions[0]?.disabled) byId("protocol").value = options.find((option) => !option.disabled)?.value ?? options[0].value;
    byId("absent").hidden = known.size > 0;
  }

  function filter() {
    offer();
    const { problem, protocol, nfe } = chosen();
    for (const part of all("[data-problem]"))
      part.hidden = part.dataset.problem !== problem || (part.dataset.protocol ?? protocol) !== protocol;
    for (const cell of all("[data-nfe]")) cell.hidden = nfe !== "" && cell.dataset.nfe !== nfe;
    draw();
  }

  async function open() {
    const problem = byId("problem").value;
    try { await unpack(`problem-${problem}`, take); } catch {
      filter();
      byId("absent").hidden = false;
      byId("absent").textContent = TOO_OLD;
      return;
    }
    if (byId("problem").value === problem) filter();
    else for (const part of all(`[data-problem="${problem}"]`)) part.hidden = true;  // another was chosen meanwhile
  }

  // #problem=NAME in the address opens a problem; the address follows the choice
  function linked() {
    let name = null;
    try { name = decodeURIComponent(location.hash.match(/^#problem=(.*)$/)?.[1] ?? ""); } catch { /* no text in percent signs */ }
    const option = [...byId("problem").options].find((each) => each.textContent === name);
    if (option) byId("problem").value = option.value;
    return Boolean(option);
  }
  addEventListener("hashchange", () => {
    if (linked()) open().then(() => byId("main").scrollIntoView());
  });
  byId("problem").addEventListener("change", (event) => {
    event.stopPropagation();  // the form filters by itself: too early for a packed problem
    history.replaceState(null, "", `#problem=${encodeURIComponent(event.target.selectedOptions[0].textContent)}`);
    open();
  });

  data.looks.forEach((look, number) => {
    const button = html("button", { type: "button", "aria-pressed": "true" }, byId("legend"));
    swatch(look, html("span", { class: "swatch", "aria-hidden": "true" }, button));
    button.append(look.name);
    button.addEventListener("click", () => {
      hidden.has(number) ? hidden.delete(number) : hidden.add(number);
      button.setAttribute("aria-pressed", String(!hidden.has(number)));
      draw();
    });
  });
  byId("filters").addEventListener("change", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const input of all("input[name=clock]")) input.addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(() => {
    if (byId("curves").clientWidth !== width) { width = byId("curves").clientWidth; draw(); }
  }).observe(byId("curves"));
  linked();
  open();
})();
