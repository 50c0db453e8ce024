// The Evaluate page: start evaluations, watch them, and see up to six together as tables, figures and failures.
const POLL_MILLISECONDS = 1500;
const HIDDEN_POLL_MILLISECONDS = 8000;
const REDRAW_MILLISECONDS = 10000; // between two sets of tables of evaluations that still run
const MAX_SELECTED = 6;
const MAX_MISSED_POLLS = 4; // looks without an answer, from which on it is no hiccup
const ACTIVE = ["queued", "running", "stopping"];
const VIEWS = ["tables", "figures", "failures"];

const page = element.querySelector(".hs-evaluate");
const find = (name) => page.querySelector(name);
let rows = null; // null until the server has answered once
let signature = "";
let unreadable = 0; // evaluations that are there and cannot be listed
let missed = 0; // looks in a row without an answer
let listError = ""; // about the list; goes with the first answer
let chosen = [];
let view = "tables";
let shownKey = null; // of what the tables and figures were made from
let shownAt = 0;
let isLoading = false;
let isPolling = false;
let counted = {}; // run -> questions that the tables were made from; the list may have been read before them
let reported = ""; // evaluations that the links of the report are of
let isReporting = false;

const base = () => props.value?.marker?.url?.replace(/[^/]*$/, "") ?? "";
const addressOf = (path) => base() + path.split("/").map(encodeURIComponent).join("/");
const titleOf = (protocol) => props.value.protocols.find(([name]) => name === protocol)?.[1] ?? protocol;
const rowOf = (id) => rows?.find((row) => row.id === id);
const percent = (value) => (value === undefined || value === null ? "–" : formatShare(value));
const failures = createFailureBrowser(page, call, addressOf, titleOf, showMessage);
const tabs = createTabs(page, "view", "#hs-ev-", openView);

function showMessage(text, isBad = false) {
  const message = find(".hs-ev-message");
  message.textContent = text;
  message.classList.toggle("hs-bad", isBad);
}

// What keeps the list from being read stays until it can be, and is told once.
function showListError(text) {
  if (text !== listError) showMessage(text, Boolean(text));
  listError = text;
}

// Calls the server; what it has to complain about is shown, and undefined comes back.
async function call(name, request, button) {
  if (button) button.disabled = true;
  try {
    const answer = await server[name](request);
    if (answer === undefined) throw new Error("no answer");
    if (answer?.error && Object.keys(answer).length === 1) { showMessage(answer.error, true); return undefined; }
    return answer ?? {};
  } catch {
    showMessage("The server does not answer. Nothing is lost; try again.", true);
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
}

// ---- address: a reload shows the same -----------------------------------------------------------------------------

// On a Space the examples' page stands beside its owner's, and each keeps to words of its own.
const wordOf = (name) => (props.value.examples.length ? `examples-${name}` : name);

function remember() {
  const address = new URL(location.href);
  if (chosen.length) address.searchParams.set(wordOf("evaluations"), chosen.join(","));
  else address.searchParams.delete(wordOf("evaluations"));
  address.searchParams.set(wordOf("view"), view);
  history.replaceState(null, "", address);
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
    const answer = await responseOf(server.evaluations({ signature }));
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
    if (++missed === MAX_MISSED_POLLS) showListError("The list of evaluations does not come. Either the server is away, or something in it is broken, which its log names. It is tried again.");
  } finally {
    isPolling = false;
  }
}

// The card of an evaluation never shows fewer answers than the tables below it were made from.
function updateCounts() {
  for (const row of rows) row.step = Math.max(row.step ?? 0, counted[row.id] ?? 0);
}

function tick(id, isOn) {
  chosen = isOn ? [...chosen.filter((other) => other !== id), id].slice(-MAX_SELECTED) : chosen.filter((other) => other !== id);
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
    unreadable ? `${formatCount(unreadable)} cannot be read: the Runs tab or the log says why` : null,
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
  return [row.total ? `${formatCount(row.step)} of ${formatCount(row.total)} answered` : "", row.phase ?? ""].filter(Boolean).join(" · ");
}

function figuresOf(row) {
  const figures = row.figures;
  const unscored = Math.max(0, ...row.protocols.map((name) => figures[`${name}/unscored`] ?? 0));
  return [
    ...row.protocols.map((name) => [titleOf(name), figures[`${name}/accuracy`]]).filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, percent(value)]),
    figures["iog_above_0.3"] === undefined ? null : ["IoG > 0.3", percent(figures["iog_above_0.3"])],
    figures.area_share === undefined ? null : ["Area", formatShare(figures.area_share)],
    unscored ? ["Unscored", formatCount(unscored)] : null,
    figures.failed ? ["Failed", formatCount(figures.failed)] : null,
  ].filter(Boolean);
}

function drawRow(row) {
  const isOn = ACTIVE.includes(row.state);
  const share = row.total ? Math.min(1, row.step / row.total) : 0;
  const box = build("input", { type: "checkbox", "aria-label": `Show ${row.title}`, "data-key": `show ${row.id}`, onchange: (event) => tick(row.id, event.target.checked) });
  box.checked = chosen.includes(row.id);
  const command = (name, text, more = {}) => props.value.is_open ? build("button", { type: "button", text, "data-key": `${name} ${row.id}`, ...more, onclick: (event) => act(name, row, event.target) }) : null;
  return build("li", { class: `hs-ev-row${box.checked ? " hs-ev-chosen" : ""}` }, [
    build("label", { class: "hs-ev-checkbox" }, [box]),
    build("div", { class: "hs-ev-name" }, [
      build("strong", { text: row.title, title: row.title }),
      build("span", { class: "hs-muted", text: [row.benchmark, row.model === row.title ? null : row.model].filter(Boolean).join(" · "), title: row.path || null }),
    ]),
    build("div", { class: "hs-ev-status" }, [
      build("div", { class: "hs-ev-line" }, [
        build("span", { class: `hs-pill hs-pill-${row.state}`, text: row.state }),
        build("span", { text: progressOf(row) }),
        build("span", { class: "hs-muted", text: [row.eta_seconds === null ? "" : `${aboutTime(row.eta_seconds)} left`, isOn ? "" : row.time].filter(Boolean).join(" · ") }),
      ]),
      build("div", { class: "hs-progress", role: "progressbar", "aria-label": `Questions of ${row.title}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share * 100) }, [build("div", { style: `width:${share * 100}%` })]),
    ]),
    build("dl", { class: "hs-ev-metrics" }, figuresOf(row).map(([name, value]) => build("div", {}, [build("dt", { text: name }), build("dd", { text: value })]))),
    build("div", { class: "hs-ev-commands" }, [
      isOn ? command("stop", row.state === "stopping" ? "Stop now" : "Stop", { title: row.state === "stopping" ? "Does not wait for the batch" : "Ends after its batch; what is measured is kept" }) : null,
      ["stopped", "failed", "lost"].includes(row.state) && !row.is_served ? command("resume", "Resume") : null,
      isOn ? null : command("delete", "Delete"),
    ]),
    row.error || row.problem ? build("p", { class: "hs-ev-error", role: "alert", text: row.error || row.problem }) : null,
    row.warnings.length ? build("details", { class: "hs-ev-warnings" }, [
      build("summary", { text: `${row.warnings.length === 1 ? "1 warning" : `${row.warnings.length} warnings`}` }),
      build("ul", {}, row.warnings.map((text) => build("li", { text }))),
    ]) : null,
  ]);
}

async function act(name, row, button) {
  if (name === "delete" && !confirm(`Delete the evaluation ${row.title} with everything that it measured?`)) return;
  showMessage("");
  if (await call(name, { run: row.id, ...(name === "stop" ? { now: row.state === "stopping" } : {}) }, button)) { signature = ""; poll(); }
}

// ---- results --------------------------------------------------------------------------------------------------------

function openView(name) {
  view = name;
  tabs.show(name);
  remember();
  refresh(true);
}

// Tables follow an evaluation that runs every few seconds, not with every batch: intervals take a while. A note that one
// has nothing yet goes with its first batch.
async function refresh(isWanted = false) {
  if (!rows?.length) return;
  updateReport();
  if (view === "failures") return failures.show(chosen.map(rowOf).filter(Boolean));
  const key = chosen.map((id) => `${id} ${rowOf(id).step} ${ACTIVE.includes(rowOf(id).state)}`).join();
  const idsOf = (text) => text?.replace(/ [^,]*/g, "");
  const isSameChoice = idsOf(key) === idsOf(shownKey);
  if (isLoading || key === shownKey || (!isWanted && isSameChoice && chosen.some((id) => ACTIVE.includes(rowOf(id).state)) && performance.now() - shownAt < (find(".hs-ev-notes").hidden ? REDRAW_MILLISECONDS : 0))) return;
  if (!chosen.length) {
    shownKey = key;
    showNotes([]);
    showGaps([]);
    for (const name of ["tables", "figures"]) find(`#hs-ev-${name}`).replaceChildren(build("p", { class: "hs-ev-placeholder", text: "Tick an evaluation above to see its figures." }));
    return;
  }
  isLoading = true;
  if (!isSameChoice) for (const name of ["tables", "figures"]) find(`#hs-ev-${name}`).replaceChildren(build("p", { class: "hs-ev-placeholder", text: "Making tables and intervals…" }));
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
  refresh(); // something else may have been ticked meanwhile
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

const nothing = () => build("p", { class: "hs-ev-placeholder", text: "Nothing has been measured yet. The first figures come with the first batch of questions." });

function drawTable(table) {
  return build("section", { class: "hs-ev-table", "aria-label": table.title }, [
    build("h3", { text: table.title }),
    build("p", { class: "hs-muted", text: table.caption }),
    build("div", { class: "hs-ev-table-frame" }, [build("div", { class: "hs-ev-table-host", tabindex: 0, role: "group", "aria-label": `${table.title}, scrolls sideways`, "data-table": table.name }, [build("table", {}, [
      build("thead", {}, [build("tr", {}, table.columns.map((text) => build("th", { scope: "col", text })))]),
      build("tbody", {}, table.rows.map((row) => build("tr", { class: row.kind === "published" ? "hs-ev-published" : null }, row.cells.map((text, index) => index
        ? drawCell(text)
        : build("th", { scope: "row" }, [build("span", { text }), row.kind === "published" ? build("em", { class: "hs-tag", text: "published" }) : null]))))),
    ])])]),
    build("p", { class: "hs-muted hs-ev-more", hidden: true }),
  ]);
}

// How many columns a table hides on its right, so that no one takes what is in sight for all of it.
function showHiddenColumns(host) {
  const frame = host.parentElement;
  const end = host.getBoundingClientRect().right;
  const hidden = [...host.querySelectorAll("thead th")].filter((head) => head.getBoundingClientRect().right > end + 2).length;
  frame.classList.toggle("hs-ev-overflows", hidden > 0);
  const message = frame.nextElementSibling;
  message.hidden = host.scrollWidth <= host.clientWidth + 1;
  message.textContent = hidden ? `${hidden} more ${hidden === 1 ? "column" : "columns"} on the right: scroll sideways, or use the arrow keys.` : "The last columns are in sight; the first ones are on the left.";
}

const tableObserver = new ResizeObserver((entries) => entries.forEach((entry) => showHiddenColumns(entry.target)));

// The figure stands out; its error and its interval are quieter.
function drawCell(text) {
  const [, figure, rest] = /^([+-]?[\d.,]+)( [±[].*)?$/.exec(text) ?? [];
  return build("td", {}, figure === undefined ? [build("span", { text })] : [build("span", { class: "hs-number", text: figure }), rest ? build("small", { text: rest }) : null]);
}

function showFigures(figures) {
  find("#hs-ev-figures").replaceChildren(figures.length
    ? build("div", { class: "hs-figures" }, figures.map((figure) => {
      const node = svgFigure(figure.name.replaceAll("_", " "), figure.svg);
      node.append(build("p", { class: "hs-muted", text: figure.caption }));
      return node;
    }))
    : build("p", { class: "hs-ev-placeholder", text: "No figure can be drawn: figures need gold boxes and a protocol that points." }));
}

// The button writes what is ticked, and links to a report of other evaluations go.
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
  if (runs.join() !== chosen.join()) return showMessage("Others are ticked by now: write the report again.");
  showMessage("");
  reported = runs.join();
  const link = (path, text) => build("a", { class: "hs-link", href: addressOf(path), download: path.split("/").at(-1), text });
  find(".hs-ev-links").replaceChildren(link(answer.page, "One HTML page"), link(answer.archive, "Everything as a zip"));
}

// ---- the form -------------------------------------------------------------------------------------------------------

const protocols = () => [...page.querySelectorAll(".hs-ev-protocols input:checked")].map((box) => box.value);

function request() {
  const gpu = find(".hs-ev-gpu").value;
  const limit = find(".hs-ev-limit").value;
  return {
    benchmark: find(".hs-ev-benchmark").value, path: find(".hs-ev-path").value, model: find(".hs-ev-model").value,
    title: find(".hs-ev-title").value, protocols: protocols(), limit: limit === "" ? null : Number(limit),
    fallback: find(".hs-ev-fallback").checked, gpu: gpu === "" ? null : Number(gpu),
  };
}

// How many questions would be asked, and about how long that takes, as far as it is known before it begins.
function describeCount({ count, seconds }) {
  const limit = find(".hs-ev-limit").value;
  const counted = count !== null ? `${limit === "" ? "All " : ""}${formatCount(count)} ${count === 1 ? "question" : "questions"}`
    : `${limit === "" ? "All questions of that place" : `At most ${formatCount(Number(limit))} questions`}, counted when it starts`;
  return seconds === null ? `${counted}; the time is told once it runs` : `${counted}, ${aboutTime(seconds)} at the pace of the last evaluation like it`;
}

let commandTimer = null;
let commandsAsked = 0; // an answer to an earlier form comes too late
function describe() {
  const benchmark = props.value.benchmarks.find((item) => item.name === find(".hs-ev-benchmark").value);
  find(".hs-ev-path-label").textContent = benchmark.hub_id ? "File, folder or hub id; empty: the published one is fetched" : benchmark.name === "needle" ? "Folder; empty: questions are drawn for you" : "File or folder";
  find(".hs-ev-path").placeholder = benchmark.hub_id || (benchmark.name === "needle" ? "drawn questions" : "/data/…");
  const tell = (foreseen) => {
    find(".hs-ev-about").textContent = present([
      foreseen && describeCount(foreseen),
      benchmark.has_boxes ? "Gold boxes: answers and boxes are judged" : "No gold boxes: answers alone are judged",
      protocols().length > 1 ? "Protocols with crops share one grounding turn" : null,
    ]).join(" · ");
  };
  find(".hs-ev-fallback").disabled = !protocols().some((name) => name !== "direct");
  find(".hs-ev-start").disabled = !protocols().length;
  if (!props.value.is_open) return tell(null);
  clearTimeout(commandTimer);
  commandTimer = setTimeout(async () => {
    const number = ++commandsAsked;
    const answer = await Promise.resolve(server.command(request())).catch(() => undefined);
    if (number !== commandsAsked) return;
    const line = find(".hs-ev-command code");
    tell(answer?.line ? answer : null);
    if (find(".hs-ev-limit").value === "") find(".hs-ev-limit").placeholder = answer?.count ? `all ${formatCount(answer.count)}` : "all";
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
  const answer = await call("evaluate_examples", { model: find(".hs-ev-example-model").value }, find(".hs-ev-evaluate-examples"));
  if (!answer?.run) return;
  chosen = [...chosen.filter((id) => id !== answer.run), answer.run].slice(-MAX_SELECTED);
  remember();
  signature = "";
  await poll();
  showMessage(answer.message);
}

function load() {
  const value = props.value;
  fillSelect(find(".hs-ev-benchmark"), value.benchmarks.map((item) => [item.name, item.title]), find(".hs-ev-benchmark").value || value.benchmark);
  find("#hs-ev-models").replaceChildren(...value.models.map(([title, name]) => build("option", { value: name, text: title })));
  find(".hs-ev-model").value ||= value.model;
  if (!find(".hs-ev-protocols input")) {
    find(".hs-ev-protocols").append(...value.protocols.map(([name, title]) => {
      const box = build("input", { type: "checkbox", value: name });
      box.checked = name === value.protocols[0][0];
      return build("label", { class: "hs-check" }, [box, build("span", { text: title })]);
    }));
  }
  fillSelect(find(".hs-ev-gpu"), [...value.gpus.map(([index, title]) => [String(index), title]), ["", "CPU"]], value.gpus.length ? String(value.gpus[0][0]) : "");
  find(".hs-ev-gpu-field").hidden = !value.gpus.length;
  for (const node of page.querySelectorAll(".hs-ev-requires-write")) node.hidden = !value.is_open;
  find(".hs-ev-closed").hidden = value.is_open || value.examples.length > 0;
  find(".hs-ev-examples").hidden = !value.examples.length;
  find(".hs-ev-example-count").textContent = formatCount(value.example_count);
  find(".hs-ev-model-label").textContent = value.model_label;
  fillSelect(find(".hs-ev-example-model"), value.examples.map(([title, name]) => [name, title]), value.examples.at(-1)?.[1] ?? "");
  describe();
}

find(".hs-ev-form").addEventListener("submit", start);
find(".hs-ev-examples").addEventListener("submit", evaluateExamples);
find(".hs-ev-form").addEventListener("input", describe);
find(".hs-ev-copy").addEventListener("click", () => navigator.clipboard?.writeText(find(".hs-ev-command code").textContent).then(() => showMessage("Copied."), () => showMessage("The browser does not let pages copy; select the line instead.", true)));
find(".hs-ev-report").addEventListener("click", makeReport);
recall();
watch("value", load);
load();
openView(view);
(function again() {
  poll().finally(() => {
    if (element.isConnected) setTimeout(again, document.hidden ? HIDDEN_POLL_MILLISECONDS : POLL_MILLISECONDS);
  });
})();
