// Table of all runs: search, filter, compare up to six on shared axes with their differing settings.
const POLL_MILLISECONDS = 2000;
const MAX_COMPARED = 6;
const COLUMNS = [
  ["", null],
  ["Run", "title"],
  ["State", "state"],
  ["Method", "stages"],
  ["Model", "model"],
  ["Steps", "step"],
  ["Reward", "reward"],
  ["Held-out accuracy", "accuracy"],
  ["IoG > 0.3", "iog_above_0.3"],
  ["Area", "area_share"],
];
const explain = (key) =>
  ({
    reward: meanOf(props.value.recent_steps),
    accuracy: "first → newest",
    "iog_above_0.3": "held-out",
    area_share: "held-out",
  })[key] ?? null;
const page = element.querySelector(".hs-runs");
const find = (name) => page.querySelector(name);
const body = find("tbody");
const compared = find(".hs-comparison");
let runs = [];
let signature = "";
let chosen = [];
let order = { key: null, isDown: true };
const SMOOTHING = 0.6;
let shown = [];
let problem = ""; // why no runs can be shown

const percent = (value) => (value === undefined || value === null ? "–" : formatShare(value));
const change = (item, name) => {
  const [first, last] = [item.first[name], item.last[name]];
  return last === undefined
    ? "–"
    : first === undefined || first === last
      ? percent(last)
      : `${percent(first)} → ${percent(last)}`;
};
// Held-out metrics; accuracy also names the question set, because runs may use different ones.
function measured(item, name) {
  const set = item.held_out && setName(item.held_out, runs.map((other) => other.held_out).filter(Boolean));
  return build("td", { class: "hs-number" }, [
    build("span", { text: change(item, name), title: set }),
    set && name === "accuracy" ? build("small", { class: "hs-muted", text: set }) : null,
  ]);
}
// Mark a mean over fewer steps than the column header states.
const reward = (item) =>
  build(
    "td",
    { class: "hs-number" },
    present([
      spark(item.spark),
      build("span", { text: percent(item.reward), title: item.reward_steps ? meanOf(item.reward_steps) : null }),
      item.reward_steps && item.reward_steps < props.value.recent_steps
        ? build("small", { class: "hs-muted", text: meanOf(item.reward_steps) })
        : null,
    ]),
  );

function spark(values) {
  const points = values.filter((value) => value !== null);
  if (points.length < 2) return null;
  const high = Math.max(...points, 0.05);
  const line = points
    .map(
      (value, index) =>
        `${((index / (points.length - 1)) * 76 + 2).toFixed(1)},${(20 - (value / high) * 17).toFixed(1)}`,
    )
    .join(" ");
  return build("svg:svg", { viewBox: "0 0 80 22", class: "hs-spark", "aria-hidden": "true" }, [
    build("svg:polyline", { points: line }),
  ]);
}

function row(item) {
  const tick = build("input", {
    type: "checkbox",
    "aria-label": `Compare ${item.title}`,
    "data-key": `compare ${item.id}`,
    onchange: (event) => {
      chosen = event.target.checked ? [...chosen, item.id].slice(-MAX_COMPARED) : chosen.filter((id) => id !== item.id);
      draw();
    },
  });
  tick.checked = chosen.includes(item.id);
  return build("tr", {}, [
    build("td", {}, [tick]),
    build("td", {}, [
      build("button", {
        type: "button",
        class: "hs-link",
        text: item.title,
        title: item.id,
        "data-key": `open ${item.id}`,
        onclick: () => trigger("open_run", { run: item.id }),
      }),
    ]),
    build("td", {}, [
      build("span", {
        class: `hs-pill hs-pill-${item.state}`,
        text: describeState(item.state),
        title: item.error || null,
      }),
    ]),
    build("td", { text: item.stages }),
    build("td", { class: "hs-truncate", text: item.model, title: item.model }),
    build("td", {
      class: "hs-number",
      text: item.total ? `${formatCount(item.step)} / ${formatCount(item.total)}` : formatCount(item.step ?? 0),
    }),
    reward(item),
    ...["accuracy", "iog_above_0.3", "area_share"].map((name) => measured(item, name)),
  ]);
}

function drawHead() {
  find("thead").replaceChildren(
    build(
      "tr",
      {},
      COLUMNS.map(([title, key]) =>
        build(
          "th",
          { scope: "col", "aria-sort": order.key === key && key ? (order.isDown ? "descending" : "ascending") : null },
          [
            key
              ? build("button", {
                  type: "button",
                  text: title,
                  title: explain(key),
                  "data-key": `sort ${key}`,
                  onclick: () => {
                    order = { key, isDown: order.key === key ? !order.isDown : true };
                    draw();
                  },
                })
              : null,
            explain(key) ? build("small", { class: "hs-muted", text: explain(key) }) : null,
          ],
        ),
      ),
    ),
  );
}

function draw() {
  const table = find(".hs-table-host");
  const focused = table.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  drawHead();
  const words = find(".hs-runs-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = find(".hs-runs-state").value;
  const valueOf = (item) => item.last[order.key] ?? item[order.key] ?? "";
  let list = runs.filter(
    (item) =>
      (!state || item.state === state) &&
      words.every((word) => `${item.title} ${item.id} ${item.model} ${item.stages}`.toLowerCase().includes(word)),
  );
  if (order.key)
    list = list.toSorted(
      (a, b) => (valueOf(a) > valueOf(b) ? 1 : valueOf(a) < valueOf(b) ? -1 : 0) * (order.isDown ? -1 : 1),
    );
  body.replaceChildren(
    ...(list.length
      ? list.map(row)
      : [
          build("tr", {}, [
            build("td", {
              colspan: COLUMNS.length,
              class: "hs-muted",
              text: problem || (runs.length ? "No matching runs." : "No runs yet. Start one on the Train tab."),
            }),
          ]),
        ]),
  );
  if (focused) [...table.querySelectorAll("button, input")].find((node) => node.dataset.key === focused)?.focus();
  find(".hs-runs-count").textContent = runs.length ? `${list.length} of ${runs.length} runs` : "";
  const button = find(".hs-compare");
  button.disabled = !chosen.length;
  button.textContent = chosen.length ? `Compare ${chosen.length}` : "Compare";
}

async function compare() {
  const response = await askServer("compare", { runs: chosen }).catch(() => null);
  compared.hidden = false;
  if (!Array.isArray(response)) {
    compared.replaceChildren(build("p", { class: "hs-bad", text: response?.error ?? "The runs cannot be compared." }));
    return;
  }
  shown = response;
  drawCompared();
  compared.scrollIntoView({ block: "start", behavior: "smooth" });
}

// A JSON value as text; strings lose their quotation marks unless empty.
const plain = (json) => (json === undefined ? "–" : /^".+"$/.test(json) ? JSON.parse(json) : json);

const flatten = (settings, prefix = "") =>
  Object.entries(settings).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? flatten(value, `${prefix}${name}.`)
      : [[prefix + name, JSON.stringify(value)]],
  );

function drawCompared() {
  const settings = shown.map((item) => new Map(flatten(item.settings)));
  const names = [...new Set(settings.flatMap((map) => [...map.keys()]))].filter((name) => name !== "name");
  const differing = names.filter((name) => new Set(settings.map((map) => map.get(name))).size > 1);
  const sets = heldOutSets();
  const figures = props.value.charts.flatMap((chart) =>
    chart.is_held_out ? sets.map((set) => drawFigure(chart, set, sets)) : [drawFigure(chart, { items: shown }, sets)],
  );
  compared.replaceChildren(
    build("div", { class: "hs-section-bar" }, [
      build("h3", { text: `${shown.length} run${shown.length > 1 ? "s" : ""} compared` }),
      build(
        "div",
        { class: "hs-comparison-names" },
        shown.map((item, index) => swatch({ label: item.title, color: CHART_COLORS[index] })),
      ),
      build("button", {
        type: "button",
        text: "Download CSV",
        onclick: () => saveFile("curves.csv", new Blob([toCsv()], { type: "text/csv" })),
      }),
      build("button", { type: "button", text: "Download SVG", onclick: () => saveFigures(false) }),
      build("button", { type: "button", text: "Download PNG", onclick: () => saveFigures(true) }),
    ]),
    build("div", { class: "hs-differences-host" }, [
      buildTable(
        ["Setting", ...shown.map((item) => item.title)],
        differing.length
          ? differing.map((name) => [
              build("th", { scope: "row", text: name }),
              ...settings.map((map) => plain(map.get(name))),
            ])
          : [
              [
                build("td", {
                  colspan: shown.length + 1,
                  class: "hs-muted",
                  text: shown.length > 1 ? "All settings are identical." : "Select another run to compare settings.",
                }),
              ],
            ],
        "hs-differences",
      ),
    ]),
    ...present([warnOfSets(sets)]),
    build("div", { class: "hs-charts" }, present(figures)),
  );
}

// Group runs by their held-out questions, largest group first. Curves of different questions are not comparable, so
// each set has its own charts.
function heldOutSets() {
  const sets = new Map();
  for (const item of shown.filter((one) => one.held_out)) {
    if (!sets.has(setKey(item))) sets.set(setKey(item), { heldOut: item.held_out, items: [] });
    sets.get(setKey(item)).items.push(item);
  }
  return [...sets.values()].toSorted((a, b) => b.items.length - a.items.length);
}

const nameOfSet = (set, sets) =>
  setName(
    set.heldOut,
    sets.map((other) => other.heldOut),
  );

// One chart of several runs; null if none of them has the metric.
function drawFigure(chart, set, sets) {
  const figure = build("figure", { class: "hs-chart" });
  const lines = set.items.flatMap((item) =>
    chart.lines.map(([name, label], place) => ({
      label: chart.lines.length > 1 ? `${item.title}: ${label}` : item.title,
      color: CHART_COLORS[shown.indexOf(item)],
      dash: DASHES[place],
      points: pointsOf(chart.is_held_out ? item.evaluations : item.steps, name),
      isSparse: chart.is_held_out,
    })),
  );
  if (!lines.some((line) => line.points.length)) return null;
  // The legend of run colors is above all charts.
  const legend = chart.lines.length > 1 ? chart.lines.map(([, label], place) => ({ label, dash: DASHES[place] })) : [];
  const title = set.heldOut ? `${chart.title} (${nameOfSet(set, sets)})` : chart.title;
  const current = set.items.length === 1 ? currentValue(chart, set.items[0]) : "";
  const note =
    set.heldOut && sets.length > 1
      ? `Only ${set.items.map((item) => item.title).join(", ")}; ` +
        `other runs use different held-out questions. ${chart.note}`.trim()
      : chart.note;
  drawChart(figure, { ...chart, title, note, lines, legend, current }, SMOOTHING);
  return figure;
}

// Warn above the charts that some runs use different held-out questions.
function warnOfSets(sets) {
  if (sets.length < 2) return null;
  const parts = sets.map((set) => `${set.items.map((item) => item.title).join(", ")} on ${nameOfSet(set, sets)}`);
  return build("p", {
    class: "hs-set-warning",
    role: "note",
    text:
      `These runs use different held-out questions: ${parts.join("; ")}. Their ` +
      `held-out metrics are not comparable and are shown in separate charts.`,
  });
}

// Prefix cells that begin with = + - @ with an apostrophe, so that spreadsheets do not run them as formulas.
const cell = (value) => {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};

function toCsv() {
  const lines = ["run,title,kind,step,metric,mean,min,max,questions,question_set"];
  for (const item of shown)
    for (const [kind, table] of [
      ["step", item.steps],
      ["evaluation", item.evaluations],
    ]) {
      for (const name of Object.keys(table.metrics))
        for (const [step, mean, low, high] of pointsOf(table, name)) {
          const set =
            kind === "evaluation" && item.held_out ? [item.held_out.samples, item.held_out.fingerprint] : ["", ""];
          lines.push(
            [item.id, item.title, kind, step, name, mean, low ?? mean, high ?? mean, ...set].map(cell).join(","),
          );
        }
    }
  return `${lines.join("\n")}\n`;
}

const figuresShown = () =>
  [...compared.querySelectorAll(".hs-chart")].filter((figure) => figure.querySelector(":scope > svg"));

// Standalone SVG of a chart: page colors inlined, with title and legend.
function standalone(figure) {
  const svg = figure.querySelector(":scope > svg").cloneNode(true);
  const originals = [...figure.querySelector(":scope > svg").querySelectorAll("*")];
  [...svg.querySelectorAll("*")].forEach((node, index) => {
    const style = getComputedStyle(originals[index]);
    for (const name of ["stroke", "stroke-width", "stroke-opacity", "fill", "fill-opacity", "font-size", "font-family"])
      node.setAttribute(name, style.getPropertyValue(name));
  });
  const page = getComputedStyle(document.body);
  const words = { fill: page.color, "font-family": page.fontFamily, x: CHART_EDGE.left };
  const above = 24 + 15 * figure.shownLines.length;
  const height = CHART_HEIGHT + above;
  const sizes = { xmlns: SVG_NAMESPACE, viewBox: `0 ${-above} ${CHART_WIDTH} ${height}`, width: CHART_WIDTH, height };
  for (const [name, value] of Object.entries(sizes)) svg.setAttribute(name, value);
  svg.prepend(build("svg:rect", { y: -above, width: CHART_WIDTH, height, fill: page.backgroundColor }));
  svg.append(
    build("svg:text", { ...words, y: 16 - above, "font-size": 13, "font-weight": 600, text: titleOf(figure) }),
  );
  figure.shownLines.forEach(({ label, color, dash }, index) => {
    const y = 33 - above + 15 * index;
    svg.append(
      build("svg:line", {
        x1: words.x,
        x2: words.x + 18,
        y1: y - 4,
        y2: y - 4,
        stroke: color,
        "stroke-width": 2.5,
        "stroke-dasharray": dash,
      }),
      build("svg:text", { ...words, x: words.x + 25, y, "font-size": 11, text: label }),
    );
  });
  return new XMLSerializer().serializeToString(svg);
}

const titleOf = (figure) => figure.querySelector("strong").textContent;

async function saveFigures(asPng) {
  for (const figure of figuresShown()) {
    const name = titleOf(figure)
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "-");
    const text = standalone(figure);
    if (asPng) saveFile(`${name}.png`, await paintSvg(text));
    else saveFile(`${name}.svg`, svgBlob(text));
  }
}

async function poll() {
  if (page.offsetParent === null) return;
  const response = await askServer("list_runs", { signature });
  if (!response) return;
  problem = response.error ? toSentence(response.error) : "";
  if (problem) {
    signature = ""; // the next poll loads the full list
    return draw();
  }
  ({ signature, runs } = response);
  chosen = chosen.filter((id) => runs.some((item) => item.id === id));
  const states = find(".hs-runs-state");
  const names = [...new Set(runs.map((item) => item.state))].sort();
  fillSelect(
    states,
    [["", "All states"], ...names.map((name) => [name, describeState(name)])],
    names.includes(states.value) ? states.value : "",
  );
  draw();
}

find(".hs-runs-search").addEventListener("input", draw);
find(".hs-runs-state").addEventListener("change", draw);
find(".hs-compare").addEventListener("click", compare);
draw();
keepPolling(poll, POLL_MILLISECONDS, 5 * POLL_MILLISECONDS);
