// Evaluate tab: start and follow evaluations; compare up to six as tables, figures and failures.
const POLL_MILLISECONDS = 1500;
const HIDDEN_POLL_MILLISECONDS = 8000;
const REDRAW_MILLISECONDS = 10000; // between two sets of tables of evaluations that still run
const MAX_SELECTED = 6;
const MAX_MISSED_POLLS = 4; // polls without a response before an error is shown
const ACTIVE = ["queued", "running", "stopping"];
const VIEWS = ["tables", "figures", "failures"];

const page = element.querySelector(".hs-evaluate");
const find = (name) => page.querySelector(name);
let rows = null; // null until the server has answered once
let signature = "";
let unreadable = 0; // evaluations that cannot be read
let missed = 0; // consecutive polls without a response
let listError = ""; // error of the list; cleared by the next response
let chosen = [];
let view = "tables";
let shownKey = null; // key of the shown tables and figures
let shownAt = 0;
let isLoading = false;
let isPolling = false;
let counted = {}; // run -> questions in the tables; the list may be older than the tables
let reported = ""; // evaluations of the linked report
let isReporting = false;

const titleOf = (protocol) => props.value.protocols.find(([name]) => name === protocol)?.[1] ?? protocol;
const rowOf = (id) => rows?.find((row) => row.id === id);
const percent = (value) => (value === undefined || value === null ? "–" : formatShare(value));
const call = createCall(showMessage);
const failures = createFailureBrowser(page, call, titleOf, showMessage);
const tabs = createTabs(page, "view", "#hs-ev-", openView);

function showMessage(text, isBad = false) {
  const message = find(".hs-ev-message");
  message.textContent = text;
  message.classList.toggle("hs-bad", isBad);
}

// Show an error of the list once, until the list can be read again.
function showListError(text) {
  if (text !== listError) showMessage(text, Boolean(text));
  listError = text;
}

// ---- address: a reload shows the same -----------------------------------------------------------------------------

// On a Space the page of the examples and the owner's page use different parameter names.
const wordOf = (name) => (props.value.examples.length ? `examples-${name}` : name);

function remember() {
  putIntoAddress({ [wordOf("evaluations")]: chosen.join(","), [wordOf("view")]: view });
}

function recall() {
  const address = new URLSearchParams(location.search);
  chosen = (address.get(wordOf("evaluations")) ?? "").split(",").filter(Boolean).slice(0, MAX_SELECTED);
  if (VIEWS.includes(address.get(wordOf("view")))) view = address.get(wordOf("view"));
}

// ---- the list -------------------------------------------------------------------------------------------------------

async function poll() {
  if (isPolling || page.offsetParent === null) return;
  isPolling = true;
  try {
    const answer = await askServer("evaluations", { signature });
    missed = 0;
    showListError(answer?.error ?? "");
    if (answer?.error) return;
    if (answer) {
      const isFirst = rows === null;
      ({ signature, unreadable, evaluations: rows } = answer);
      updateCounts();
      chosen = chosen.filter(rowOf);
      if (isFirst) {
        find(".hs-ev-new").open = !rows.length && props.value.is_open;
        const done = rows.find((row) => row.state === "completed");
        if (!chosen.length && done) chosen = [done.id];
      }
      draw();
    }
    page.classList.remove("hs-offline");
    refresh();
  } catch {
    page.classList.add("hs-offline");
    if (++missed === MAX_MISSED_POLLS)
      showListError("Cannot load the evaluations: the server is not responding or failed. Check its log. Retrying…");
  } finally {
    isPolling = false;
  }
}

// The card of an evaluation never shows fewer answers than the tables below it.
function updateCounts() {
  for (const row of rows) row.step = Math.max(row.step ?? 0, counted[row.id] ?? 0);
}

function tick(id, isOn) {
  chosen = isOn
    ? [...chosen.filter((other) => other !== id), id].slice(-MAX_SELECTED)
    : chosen.filter((other) => other !== id);
  remember();
  draw();
  refresh(true);
}

function draw() {
  const list = find(".hs-ev-list");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  page.classList.toggle("hs-ev-none", !rows.length && !unreadable);
  find(".hs-ev-count").textContent = present([
    rows.length ? formatCount(rows.length) : null,
    unreadable ? `${formatCount(unreadable)} unreadable; see the Runs tab or the server log` : null,
  ]).join(" · ");
  list.replaceChildren(...rows.map(drawRow));
  if (focused) [...list.querySelectorAll("button, input")].find((node) => node.dataset.key === focused)?.focus();
  find(".hs-ev-results").hidden = !rows.length;
}

function aboutTime(seconds) {
  if (seconds < 90) return `about ${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min` : `about ${(seconds / 3600).toFixed(1)} h`;
}

function progressOf(row) {
  if (row.state === "queued") return row.phase;
  return [row.total ? `${formatCount(row.step)} of ${formatCount(row.total)} answered` : "", row.phase ?? ""]
    .filter(Boolean)
    .join(" · ");
}

function figuresOf(row) {
  const figures = row.figures;
  const unscored = Math.max(0, ...row.protocols.map((name) => figures[`${name}/unscored`] ?? 0));
  return [
    ...row.protocols
      .map((name) => [titleOf(name), figures[`${name}/accuracy`]])
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, percent(value)]),
    figures["iog_above_0.3"] === undefined ? null : ["IoG > 0.3", percent(figures["iog_above_0.3"]), IOG_HELP],
    figures.area_share === undefined ? null : ["Area", formatShare(figures.area_share)],
    unscored
      ? ["Unscored", `${formatCount(unscored)}${figures.failed ? ` (${formatCount(figures.failed)} failed)` : ""}`]
      : null,
  ].filter(Boolean);
}

function drawRow(row) {
  const isOn = ACTIVE.includes(row.state);
  const share = row.total ? Math.min(1, row.step / row.total) : 0;
  const box = build("input", {
    type: "checkbox",
    "aria-label": `Show ${row.title}`,
    "data-key": `show ${row.id}`,
    onchange: (event) => tick(row.id, event.target.checked),
  });
  box.checked = chosen.includes(row.id);
  const command = (name, text, more = {}) =>
    props.value.is_open
      ? build("button", {
          type: "button",
          text,
          "data-key": `${name} ${row.id}`,
          ...more,
          onclick: (event) => act(name, row, event.target),
        })
      : null;
  return build("li", { class: `hs-ev-row${box.checked ? " hs-ev-chosen" : ""}` }, [
    build("label", { class: "hs-ev-checkbox" }, [box]),
    build("div", { class: "hs-ev-name" }, [
      build("strong", { text: row.title, title: row.title }),
      build("span", {
        class: "hs-muted",
        text: [row.benchmark, row.model === row.title ? null : row.model].filter(Boolean).join(" · "),
        title: row.path || null,
      }),
    ]),
    build("div", { class: "hs-ev-status" }, [
      build("div", { class: "hs-ev-line" }, [
        build("span", { class: `hs-pill hs-pill-${row.state}`, text: describeState(row.state) }),
        build("span", { text: progressOf(row) }),
        build("span", {
          class: "hs-muted",
          text: [row.eta_seconds === null ? "" : `${aboutTime(row.eta_seconds)} left`, isOn ? "" : row.time]
            .filter(Boolean)
            .join(" · "),
        }),
      ]),
      progressBar(`Questions of ${row.title}`, share),
    ]),
    build(
      "dl",
      { class: "hs-ev-metrics" },
      figuresOf(row).map(([name, value, help]) =>
        build("div", {}, [build("dt", { text: name, title: help ?? null }), build("dd", { text: value })]),
      ),
    ),
    build("div", { class: "hs-ev-commands" }, [
      isOn
        ? command("stop", row.state === "stopping" ? "Force stop" : "Stop", {
            title:
              row.state === "stopping" ? "Stop without finishing the batch" : "Stop after this batch; results are kept",
          })
        : null,
      ["stopped", "failed", "lost"].includes(row.state) && !row.is_served ? command("resume", "Resume") : null,
      isOn ? null : command("delete", "Delete"),
    ]),
    row.error || row.problem
      ? build("p", { class: "hs-ev-error", role: "alert", text: row.error || row.problem })
      : null,
    row.warnings.length
      ? build("details", { class: "hs-ev-warnings" }, [
          build("summary", { text: `${row.warnings.length === 1 ? "1 warning" : `${row.warnings.length} warnings`}` }),
          build(
            "ul",
            {},
            row.warnings.map((text) => build("li", { text })),
          ),
        ])
      : null,
  ]);
}

async function act(name, row, button) {
  if (name === "delete" && !confirm(`Delete the evaluation “${row.title}” and its results?`)) return;
  showMessage("");
  if (await call(name, { run: row.id, ...(name === "stop" ? { now: row.state === "stopping" } : {}) }, button)) {
    signature = "";
    poll();
  }
}

// ---- results --------------------------------------------------------------------------------------------------------

function openView(name) {
  view = name;
  tabs.show(name);
  remember();
  refresh(true);
}

// Tables of a running evaluation are updated every few seconds, not with every batch: intervals are slow to compute. A
// note that there are no results yet is removed with the first batch.
async function refresh(isWanted = false) {
  if (!rows?.length) return;
  updateReport();
  if (view === "failures") return failures.show(chosen.map(rowOf).filter(Boolean));
  const key = chosen.map((id) => `${id} ${rowOf(id).step} ${ACTIVE.includes(rowOf(id).state)}`).join();
  const idsOf = (text) => text?.replace(/ [^,]*/g, "");
  const isSameChoice = idsOf(key) === idsOf(shownKey);
  if (
    isLoading ||
    key === shownKey ||
    (!isWanted &&
      isSameChoice &&
      chosen.some((id) => ACTIVE.includes(rowOf(id).state)) &&
      performance.now() - shownAt < (find(".hs-ev-notes").hidden ? REDRAW_MILLISECONDS : 0))
  )
    return;
  if (!chosen.length) {
    shownKey = key;
    showNotes([]);
    showGaps([]);
    for (const name of ["tables", "figures"])
      find(`#hs-ev-${name}`).replaceChildren(
        build("p", { class: "hs-ev-placeholder", text: "Select an evaluation above to see its results." }),
      );
    return;
  }
  isLoading = true;
  if (!isSameChoice)
    for (const name of ["tables", "figures"])
      find(`#hs-ev-${name}`).replaceChildren(
        build("p", { class: "hs-ev-placeholder", text: "Computing tables and intervals…" }),
      );
  try {
    const answer = await call("tables", { runs: chosen });
    if (!answer?.tables) return;
    shownKey = key;
    shownAt = performance.now();
    counted = Object.fromEntries(Object.entries(answer.answered).map(([id, [count]]) => [id, count]));
    updateCounts();
    draw();
    showNotes(answer.notes);
    showGaps(answer.gaps);
    showTables(answer.tables);
    showFigures(answer.figures);
  } finally {
    isLoading = false;
  }
  refresh(); // the selection may have changed meanwhile
}

function showNotes(notes) {
  find(".hs-ev-notes").hidden = !notes.length;
  find(".hs-ev-notes").textContent = notes.join(" · ");
}

function showGaps(gaps) {
  find(".hs-ev-gaps").hidden = !gaps.length;
  find(".hs-ev-gaps").replaceChildren(...gaps.map((text) => build("li", { text })));
}

function showTables(tables) {
  const places = [...page.querySelectorAll(".hs-ev-table-host")].map((host) => [host.dataset.table, host.scrollLeft]);
  find("#hs-ev-tables").replaceChildren(...(tables.length ? tables.map(drawTable) : [nothing()]));
  tableObserver.disconnect();
  for (const host of page.querySelectorAll(".hs-ev-table-host")) {
    host.scrollLeft = places.find(([name]) => name === host.dataset.table)?.[1] ?? 0;
    host.addEventListener("scroll", () => showHiddenColumns(host), { passive: true });
    tableObserver.observe(host);
  }
}

const nothing = () =>
  build("p", { class: "hs-ev-placeholder", text: "No results yet. They appear after the first batch." });

function drawTable(table) {
  return build("section", { class: "hs-ev-table", "aria-label": table.title }, [
    build("h3", { text: table.title }),
    build("p", { class: "hs-muted", text: table.caption }),
    build("div", { class: "hs-ev-table-frame" }, [
      build(
        "div",
        {
          class: "hs-ev-table-host",
          tabindex: 0,
          role: "group",
          "aria-label": `${table.title}, scrollable`,
          "data-table": table.name,
        },
        [
          buildTable(
            table.columns,
            table.rows.map((row) => {
              const isPublished = row.kind === "published";
              const [head, ...cells] = row.cells;
              return build("tr", { class: isPublished ? "hs-ev-published" : null }, [
                build("th", { scope: "row" }, [
                  build("span", { text: head }),
                  isPublished ? build("em", { class: "hs-tag", text: "published" }) : null,
                ]),
                ...cells.map(drawCell),
              ]);
            }),
          ),
        ],
      ),
    ]),
    build("p", { class: "hs-muted hs-ev-more", hidden: true }),
  ]);
}

// Show how many columns are hidden on the right.
function showHiddenColumns(host) {
  const frame = host.parentElement;
  const end = host.getBoundingClientRect().right;
  const hidden = [...host.querySelectorAll("thead th")].filter(
    (head) => head.getBoundingClientRect().right > end + 2,
  ).length;
  frame.classList.toggle("hs-ev-overflows", hidden > 0);
  const message = frame.nextElementSibling;
  message.hidden = host.scrollWidth <= host.clientWidth + 1;
  message.textContent = hidden
    ? `${hidden} more ${hidden === 1 ? "column" : "columns"} on the right. Scroll or use the arrow keys.`
    : "Last columns shown. Scroll left for the first ones.";
}

const tableObserver = new ResizeObserver((entries) => entries.forEach((entry) => showHiddenColumns(entry.target)));

// Emphasize the value over its error and interval.
function drawCell(text) {
  const [, figure, rest] = /^([+-]?[\d.,]+)( [±[].*)?$/.exec(text) ?? [];
  return build(
    "td",
    {},
    figure === undefined
      ? [build("span", { text })]
      : [build("span", { class: "hs-number", text: figure }), rest ? build("small", { text: rest }) : null],
  );
}

function showFigures(figures) {
  find("#hs-ev-figures").replaceChildren(
    figures.length
      ? build(
          "div",
          { class: "hs-figures" },
          figures.map((figure) => {
            const node = svgFigure(figure.name.replaceAll("_", " "), figure.svg);
            node.append(build("p", { class: "hs-muted", text: figure.caption }));
            return node;
          }),
        )
      : build("p", { class: "hs-ev-placeholder", text: "No figures: they need gold boxes and a protocol with crops." }),
  );
}

// The button exports the selected evaluations; links to a report of other evaluations are removed.
function updateReport() {
  find(".hs-ev-report").disabled = isReporting || !chosen.length;
  if (reported !== chosen.join()) find(".hs-ev-links").replaceChildren();
}

async function makeReport() {
  const runs = chosen;
  isReporting = true;
  updateReport();
  showMessage("Writing the report…");
  const answer = await call("report", { runs });
  isReporting = false;
  updateReport();
  if (!answer?.archive) return;
  if (runs.join() !== chosen.join()) return showMessage("The selection changed. Export the report again.");
  showMessage("");
  reported = runs.join();
  const link = (path, text) =>
    build("a", { class: "hs-link", href: addressOf(path), download: path.split("/").at(-1), text });
  find(".hs-ev-links").replaceChildren(link(answer.page, "Download HTML"), link(answer.archive, "Download zip"));
}

// ---- the form -------------------------------------------------------------------------------------------------------

const protocols = () => [...page.querySelectorAll(".hs-ev-protocols input:checked")].map((box) => box.value);

function request() {
  const gpu = find(".hs-ev-gpu").value;
  const limit = find(".hs-ev-limit").value;
  return {
    benchmark: find(".hs-ev-benchmark").value,
    path: find(".hs-ev-path").value,
    model: find(".hs-ev-model").value,
    title: find(".hs-ev-title").value,
    protocols: protocols(),
    limit: limit === "" ? null : Number(limit),
    fallback: find(".hs-ev-fallback").checked,
    allow_dropped: find(".hs-ev-allow-dropped").checked,
    gpu: gpu === "" ? null : Number(gpu),
  };
}

// Number of questions and time estimate, as far as they are known before the start.
function describeCount({ count, seconds }) {
  const limit = find(".hs-ev-limit").value;
  const atMost = limit === "" ? "All questions" : `Up to ${formatCount(Number(limit))} questions`;
  const counted =
    count !== null
      ? `${formatCount(count)} ${count === 1 ? "question" : "questions"}`
      : `${atMost} (number known after the start)`;
  return seconds === null
    ? `${counted}. No time estimate yet`
    : `${counted}, ${aboutTime(seconds)}, based on the last similar evaluation`;
}

let commandTimer = null;
let commandsAsked = 0; // responses to earlier forms are ignored
function describe() {
  const benchmark = props.value.benchmarks.find((item) => item.name === find(".hs-ev-benchmark").value);
  find(".hs-ev-path").placeholder = benchmark.hub_id
    ? `empty: download ${benchmark.hub_id}`
    : benchmark.name === "needle"
      ? "empty: generate questions"
      : "file or folder";
  const showEstimate = (estimate) => {
    find(".hs-ev-about").textContent = present([
      estimate && describeCount(estimate),
      benchmark.has_boxes ? "Scores answers and boxes" : "Scores answers only (no gold boxes)",
      protocols().length > 1 ? "Crops only and Full image + crops use the same predicted boxes" : null,
    ]).join(" · ");
  };
  find(".hs-ev-fallback").disabled = !protocols().some((name) => name !== "direct");
  find(".hs-ev-start").disabled = !protocols().length;
  if (!props.value.is_open) return showEstimate(null);
  clearTimeout(commandTimer);
  commandTimer = setTimeout(async () => {
    const number = ++commandsAsked;
    const answer = await askServer("command", request()).catch(() => undefined);
    if (number !== commandsAsked) return;
    const line = find(".hs-ev-command code");
    showEstimate(answer?.line ? answer : null);
    if (find(".hs-ev-limit").value === "")
      find(".hs-ev-limit").placeholder = answer?.count ? `all ${formatCount(answer.count)}` : "all";
    line.textContent = answer?.line ?? answer?.error ?? "";
    line.classList.toggle("hs-bad", Boolean(answer?.error));
  }, 200);
}

async function start(event) {
  event.preventDefault();
  showMessage("");
  const answer = await call("start", request(), find(".hs-ev-start"));
  if (!answer?.run) return;
  find(".hs-ev-new").open = false;
  chosen = [...chosen.filter((id) => id !== answer.run), answer.run].slice(-MAX_SELECTED);
  remember();
  signature = "";
  await poll();
  find(".hs-ev-list input")?.focus();
}

async function evaluateExamples(event) {
  event.preventDefault();
  showMessage("");
  const answer = await call(
    "evaluate_examples",
    { model: find(".hs-ev-example-model").value },
    find(".hs-ev-evaluate-examples"),
  );
  if (!answer?.run) return;
  chosen = [...chosen.filter((id) => id !== answer.run), answer.run].slice(-MAX_SELECTED);
  remember();
  signature = "";
  await poll();
  showMessage(answer.message);
}

function load() {
  const value = props.value;
  fillSelect(
    find(".hs-ev-benchmark"),
    value.benchmarks.map((item) => [item.name, item.title]),
    find(".hs-ev-benchmark").value || value.benchmark,
  );
  find("#hs-ev-models").replaceChildren(
    ...value.models.map(([title, name]) => build("option", { value: name, text: title })),
  );
  find(".hs-ev-model").value ||= value.model;
  if (!find(".hs-ev-protocols input")) {
    find(".hs-ev-protocols").append(
      ...value.protocols.map(([name, title]) => {
        const box = build("input", { type: "checkbox", value: name });
        box.checked = name === value.protocols[0][0];
        return build("label", { class: "hs-check" }, [box, build("span", { text: title })]);
      }),
    );
  }
  fillSelect(
    find(".hs-ev-gpu"),
    [...value.gpus.map(([index, title]) => [String(index), title]), ["", "CPU"]],
    value.gpus.length ? String(value.gpus[0][0]) : "",
  );
  find(".hs-ev-gpu-field").hidden = !value.gpus.length;
  for (const node of page.querySelectorAll(".hs-ev-requires-write")) node.hidden = !value.is_open;
  find(".hs-ev-closed").hidden = value.is_open || value.examples.length > 0;
  find(".hs-ev-examples").hidden = !value.examples.length;
  find(".hs-ev-example-count").textContent = formatCount(value.example_count);
  find(".hs-ev-model").placeholder = value.model_hint;
  fillSelect(
    find(".hs-ev-example-model"),
    value.examples.map(([title, name]) => [name, title]),
    value.examples.at(-1)?.[1] ?? "",
  );
  describe();
}

find(".hs-ev-form").addEventListener("submit", start);
find(".hs-ev-examples").addEventListener("submit", evaluateExamples);
find(".hs-ev-form").addEventListener("input", describe);
find(".hs-ev-copy").addEventListener("click", () =>
  navigator.clipboard?.writeText(find(".hs-ev-command code").textContent).then(
    () => showMessage("Copied."),
    () => showMessage("Copying is blocked by the browser. Select the command and copy it.", true),
  ),
);
find(".hs-ev-report").addEventListener("click", makeReport);
recall();
watch("value", load);
load();
openView(view);
keepPolling(poll, POLL_MILLISECONDS, HIDDEN_POLL_MILLISECONDS);
