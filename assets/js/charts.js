// Line charts as SVG: raw points faint, the smoothed line on top, a min-max band where a point stands for
// many steps. No library: a run has fifteen charts that change every second and use the theme of the page.
const CHART_WIDTH = 420;
const CHART_HEIGHT = 190;
const CHART_EDGE = { left: 46, right: 10, top: 10, bottom: 24 };
const CHART_COLORS = ["#4d68ff", "#e07a1f", "#1f9d69", "#c2418f", "#8a63d2", "#b0892b"];

const formatNumber = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100000 || size < 0.001) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 5 : 3)));
};
const formatValue = (value, unit) =>
  unit === "share"
    ? `${(value * 100).toFixed(Math.abs(value) < 0.1 ? 2 : 1)} %`
    : unit
      ? `${formatNumber(value)} ${unit}`
      : formatNumber(value);

// Exponential moving average with a correction for its beginning, so that the first points are not pulled to zero.
function smooth(points, weight) {
  let total = 0;
  let mass = 0;
  return points.map(([x, y]) => {
    total = total * weight + y * (1 - weight);
    mass = mass * weight + (1 - weight);
    return [x, total / mass];
  });
}

// Round numbers that cover a range.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9) * step;
  const found = [];
  for (let value = first; value <= high + step * 1e-6; value += step)
    found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

function chartRange(lines, unit) {
  const values = lines.flatMap((line) => line.points.flatMap(([, y, low, high]) => [low ?? y, high ?? y]));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (unit === "share") [low, high] = [Math.min(0, low), Math.max(high * 1.05, 0.02)];
  else if (low >= 0 && low < high * 0.6) low = 0;
  if (low === high) [low, high] = [low - Math.abs(low) * 0.1 - 1e-9, high + Math.abs(high) * 0.1 + 1e-9];
  return [low, high];
}

const DASHES = [null, "5 4", "1.5 3"];
const swatch = ({ label, color, dash = null }) =>
  build("span", { class: "hs-legend" }, [
    build("svg:svg", { class: "hs-swatch", viewBox: "0 0 18 6", "aria-hidden": "true" }, [
      build("svg:line", {
        x1: 0,
        x2: 18,
        y1: 3,
        y2: 3,
        stroke: color ?? "currentColor",
        "stroke-width": 2.5,
        "stroke-dasharray": dash,
      }),
    ]),
    build("span", { text: label }),
  ]);

// Current value of a chart with one line: the mean of the last steps, computed by the server, or the newest evaluation.
const meanOf = (count) => (count === 1 ? "last step" : `mean of last ${formatCount(count)} steps`);
const formatCurrent = (value, unit) => (unit === "share" ? formatShare(value) : formatValue(value, unit));
function currentValue(chart, item) {
  if (chart.lines.length > 1) return "";
  const [name] = chart.lines[0];
  if (chart.is_held_out) {
    const last = pointsOf(item.evaluations, name).at(-1);
    return last ? `${formatCurrent(last[1], chart.unit)} · step ${formatCount(last[0])}` : "";
  }
  const recent = item.recent?.[name];
  return recent ? `${formatCurrent(recent[0], chart.unit)} · ${meanOf(recent[1])}` : "";
}

// Name of a held-out set: its size, plus the start of its fingerprint if two sets have the same size.
const setKey = (item) => (item.held_out ? `${item.held_out.samples} ${item.held_out.fingerprint}` : "");
function setName(heldOut, others) {
  const hasTwin = others.some(
    (other) => other.samples === heldOut.samples && other.fingerprint !== heldOut.fingerprint,
  );
  return `n = ${formatCount(heldOut.samples)}${hasTwin ? `, set ${heldOut.fingerprint.slice(0, 6)}` : ""}`;
}

// Draw a chart with at least one point into a figure. chart: {title, unit, note, current?: text beside the title,
// lines: [{label, points: [[x, y, low?, high?]], color, dash?}], legend?: overrides the names of the lines}.
function drawChart(figure, chart, weight) {
  const lines = chart.lines.filter((line) => line.points.length);
  figure.shownLines = lines;
  const { left, right, top, bottom } = CHART_EDGE;
  const caption = build("figcaption", {}, [
    build("strong", { text: chart.title }),
    ...(chart.legend ?? (lines.length > 1 ? lines : [])).map(swatch),
    build("output", { class: "hs-chart-value" }),
  ]);
  const xs = lines.flatMap((line) => line.points.map(([x]) => x));
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = chartRange(lines, chart.unit);
  const toX = (x) => left + ((x - first) / (last - first || 1)) * (CHART_WIDTH - left - right);
  const toY = (y) => CHART_HEIGHT - bottom - ((y - low) / (high - low)) * (CHART_HEIGHT - top - bottom);
  const describeEnd = (line) => `${line.label} ${formatValue(line.points.at(-1)[1], chart.unit)}`;
  const path = (points) =>
    points.map(([x, y], index) => `${index ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
  const svg = build("svg:svg", {
    viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`,
    tabindex: 0,
    role: "img",
    "aria-label": `${chart.title}: ${lines.map(describeEnd).join(", ")} at step ${last}`,
  });
  for (const value of ticks(low, high, 4)) {
    svg.append(
      build("svg:line", { class: "hs-grid", x1: left, x2: CHART_WIDTH - right, y1: toY(value), y2: toY(value) }),
      build("svg:text", {
        x: left - 6,
        y: toY(value) + 4,
        "text-anchor": "end",
        text: chart.unit === "share" ? `${Number((value * 100).toPrecision(3))} %` : formatNumber(value),
      }),
    );
  }
  for (const value of ticks(first, last, 5).filter(Number.isInteger)) {
    svg.append(
      build("svg:text", { x: toX(value), y: CHART_HEIGHT - 7, "text-anchor": "middle", text: formatCount(value) }),
    );
  }
  for (const line of lines) {
    const banded = line.points.filter(([, , least]) => least !== undefined && least !== null);
    if (banded.length > 1) {
      const back = banded.toReversed().map(([x, , least]) => [x, least]);
      const band = `${path(banded.map(([x, , , most]) => [x, most]))}L${path(back).slice(1)}Z`;
      svg.append(build("svg:path", { class: "hs-band", d: band, fill: line.color }));
    }
    const shown = weight > 0 && line.points.length > 2 && !line.isSparse;
    svg.append(
      build("svg:path", {
        class: shown ? "hs-raw" : "hs-line",
        d: path(line.points),
        stroke: line.color,
        "stroke-dasharray": line.dash,
      }),
    );
    if (shown)
      svg.append(
        build("svg:path", {
          class: "hs-line",
          d: path(smooth(line.points, weight)),
          stroke: line.color,
          "stroke-dasharray": line.dash,
        }),
      );
    if (line.points.length <= 60) {
      for (const [x, y] of line.points)
        svg.append(
          build("svg:circle", {
            class: shown ? "hs-raw" : "",
            cx: toX(x),
            cy: toY(y),
            r: line.isSparse ? 3 : 1.8,
            fill: line.color,
          }),
        );
    }
  }
  const hadFocus = figure.contains(document.activeElement);
  const shownStep = figure.dataset.step;
  const crosshair = build("svg:line", {
    class: "hs-crosshair",
    y1: top,
    y2: CHART_HEIGHT - bottom,
    visibility: "hidden",
  });
  svg.append(crosshair);
  figure.replaceChildren(
    caption,
    svg,
    ...present([chart.note ? build("p", { class: "hs-muted", text: chart.note }) : null]),
  );
  const output = caption.querySelector("output");
  const steps = [...new Set(xs)].sort((a, b) => a - b);
  const showStep = (x) => {
    crosshair.setAttribute("x1", toX(x));
    crosshair.setAttribute("x2", toX(x));
    crosshair.setAttribute("visibility", "visible");
    const values = lines
      .map((line) => [line, line.points.find(([step]) => step === x)])
      .filter(([, point]) => point)
      .map(([line, point]) => `${lines.length > 1 ? `${line.label} ` : ""}${formatValue(point[1], chart.unit)}`);
    output.textContent = `step ${formatCount(x)}: ${values.join(",\n")}`;
    figure.dataset.step = x;
  };
  const clearStep = () => {
    delete figure.dataset.step;
    crosshair.setAttribute("visibility", "hidden");
    output.textContent = chart.current ?? "";
  };
  const nearest = (x) =>
    steps.reduce((best, step) => (Math.abs(step - x) < Math.abs(best - x) ? step : best), steps[0]);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * CHART_WIDTH;
    showStep(nearest(first + ((x - left) / (CHART_WIDTH - left - right)) * (last - first)));
  });
  svg.addEventListener("pointerleave", clearStep);
  svg.addEventListener("blur", clearStep);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || hasModifier(event)) return;
    event.preventDefault();
    const here = figure.dataset.step === undefined ? steps.length : steps.indexOf(Number(figure.dataset.step));
    showStep(steps[Math.min(Math.max(here + move, 0), steps.length - 1)]);
  });
  // Restore focus and crosshair of the replaced chart.
  if (hadFocus) svg.focus({ preventScroll: true });
  if (shownStep === undefined) clearStep();
  else showStep(nearest(Number(shownStep)));
}

// Column table -> points of one metric.
function pointsOf(table, name) {
  const figure = table.metrics[name];
  if (!figure) return [];
  const points = table.steps.map((step, row) =>
    figure.low ? [step, figure.mean[row], figure.low[row], figure.high[row]] : [step, figure.mean[row]],
  );
  return points.filter(([, value]) => value !== null && value !== undefined);
}

// Merge a delta into a table: rows from first_row on are replaced.
function mergeTable(table, delta) {
  const rows = delta.first_row;
  table.steps.length = Math.min(table.steps.length, rows);
  table.steps.push(...delta.steps);
  for (const name of new Set([...Object.keys(table.metrics), ...Object.keys(delta.metrics)])) {
    const kept = (table.metrics[name] ??= { mean: [] });
    for (const part of ["mean", "low", "high"]) {
      const fresh = delta.metrics[name]?.[part];
      if (!kept[part] && !fresh) continue;
      const old = (kept[part] ?? []).slice(0, rows);
      while (old.length < rows) old.push(null);
      kept[part] = [...old, ...(fresh ?? delta.steps.map(() => null))];
    }
  }
}
