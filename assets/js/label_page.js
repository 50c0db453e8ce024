// Label tab: choose a project, import questions, propose and verify boxes, review, measure quality, export.
const POLL_MILLISECONDS = 1500;
const HIDDEN_POLL_MILLISECONDS = 6000;
const AWAY_POLL_MILLISECONDS = 60000;
const STATUS_TITLES = {
  new: "new",
  proposed: "waiting for review",
  auto_accepted: "auto-accepted",
  accepted: "accepted",
  edited: "edited",
  rejected: "rejected",
  bad_question: "bad question",
  failed: "failed",
};
const ACTIVE_RUNS = ["queued", "running", "stopping"];
const REVIEWER_KEY = "hart-studio-reviewer";
const SESSION_TOKEN_KEY = "hart-studio-session";

const page = element.querySelector(".hs-label");
const find = (name) => page.querySelector(name);
const message = find(".hs-label-message");
const withStorage = (act) => {
  try {
    return act(localStorage);
  } catch {
    return null;
  } // a framed page may not be allowed to store anything
};
let project = null;
let state = null;
let signature = "";
let isPolling = false;
let isScopeChosen = false; // whether a person has chosen which items to label
let isModelChosen = false; // whether a person has chosen the model for this project
let polledAt = -Infinity;
let listed = []; // all projects, also those that the list does not show

const ask = (name, request) => askServer(name, withSessionToken(request));
// An answer about the project that was open before is dropped.
const callServer = createCall(showMessage, ask, (name) => {
  const asked = project;
  return () => asked === project || ["projects", "create", "trash", "restore"].includes(name);
});
const review = createReview(page, ask, () => {
  poll();
  find(".hs-start-review").focus();
});
const tabs = createTabs(page, "panel", "#hs-panel-", openPanel);
const importing = createImportPanel(page, {
  call,
  showMessage,
  upload,
  isVisitor: () => Boolean(props.value?.note),
  onBegin: () => {
    signature = "";
    poll();
  },
});

const projectMenu = createProjectMenu(page, {
  call,
  showMessage,
  problem: () => {
    const text = message.textContent;
    showMessage("");
    return text;
  },
  current: () => listed.find((item) => item.id === project),
  refresh: (id) => listProjects(id),
  isVisitor: () => Boolean(props.value?.note),
});

function showMessage(text, isBad = false) {
  message.textContent = text;
  message.classList.toggle("hs-bad", isBad);
}

// Where projects are private to a tab, every call sends the tab's session token: 256 random bits, stored only in the
// tab. No cookie: a Space is shown in a frame of another site, where browsers block cookies.
let sessionToken = "";
function withSessionToken(request) {
  if (!props.value?.note) return request;
  try {
    sessionToken ||= sessionStorage.getItem(SESSION_TOKEN_KEY) ?? "";
  } catch {
    /* kept until the page is reloaded */
  }
  if (!/^[0-9a-f]{64}$/.test(sessionToken)) {
    sessionToken = [...crypto.getRandomValues(new Uint8Array(32))]
      .map((byte) => byte.toString(16).padStart(2, "0"))
      .join("");
    try {
      sessionStorage.setItem(SESSION_TOKEN_KEY, sessionToken);
    } catch {
      /* as above */
    }
  }
  return { ...request, session_token: sessionToken };
}

async function call(name, request, button) {
  const answer = await callServer(name, { project, ...request }, button);
  if (answer && (button || message.classList.contains("hs-bad"))) showMessage(""); // a result stays until then
  return answer;
}

// ---- project and panels ---------------------------------------------------------------------------------------------

const titleOf = (item) =>
  item.problem
    ? `${item.name} (cannot be opened)`
    : `${item.name} (${formatCount(item.items)})${item.is_archived ? " · archived" : ""}`;

// wanted: the project to choose; null = any other one; undefined = the one that is chosen.
async function listProjects(wanted) {
  const found = await call("projects", {});
  if (!Array.isArray(found)) return;
  listed = found;
  const select = find(".hs-project");
  const chosen = wanted === undefined ? project : wanted;
  const shown = found.filter((item) => !item.is_archived || projectMenu.isArchivedShown() || item.id === chosen);
  const next =
    (shown.find((item) => item.id === chosen) ?? shown.find((item) => !item.problem) ?? shown[0])?.id ?? null;
  fillSelect(
    select,
    shown.map((item) => [item.id, titleOf(item)]),
    next ?? "",
  );
  page.classList.toggle("hs-no-project", !shown.length);
  if (next !== project) choose(next);
}

function choose(id) {
  project = id;
  signature = "";
  state = null;
  isScopeChosen = isModelChosen = false;
  importing.open();
  find(".hs-quality").replaceChildren();
  find(".hs-label-diff").replaceChildren();
  find(".hs-export-message").replaceChildren();
  find(".hs-project").value = id ?? "";
  putIntoAddress({ project: id });
  poll();
  if (!id) return;
  showEarlierInvalidRows(id);
  openPanel(tabs.open() ?? "import"); // what it shows is the other project's
}

// Rows that earlier imports skipped stay visible, also after a restart of the server.
async function showEarlierInvalidRows(id) {
  const rows = await call("invalid_rows", {});
  if (!Array.isArray(rows) || id !== project) return;
  importing.showEarlier(rows.map(([source, place, reason]) => [`${source}, ${place}`, reason]));
}

async function create() {
  const input = find(".hs-new-name");
  const response = await call("create", { name: input.value }, find(".hs-create"));
  if (!response?.id) return;
  input.value = "";
  await listProjects(response.id);
  openPanel("import"); // nothing else can be done with it yet
}

function openPanel(name) {
  tabs.show(name);
  if (name === "propose") describeScoreBasis();
  if (name === "review") list(0);
  if (name === "quality") measure();
  if (name === "export") losses();
}

// ---- poll -----------------------------------------------------------------------------------------------------------

// A visitor's page keeps polling in a background tab: runs and projects that are not polled for long are removed.
const isInBackground = () =>
  page.offsetParent === null && !(props.value?.note && performance.now() - polledAt >= AWAY_POLL_MILLISECONDS);

async function poll() {
  if (isPolling || !project || isInBackground()) return;
  isPolling = true;
  polledAt = performance.now();
  try {
    const asked = project;
    const response = await ask("poll", { project, signature });
    if (asked !== project) return;
    page.classList.toggle("hs-unreadable", Boolean(response?.error) && !state); // what is drawn is another project's
    if (response?.error) return showMessage(response.error, true);
    if (response) {
      const isOther = state && total() !== totalOf(response);
      state = response;
      signature = response.signature;
      draw();
      if (isOther) listProjects(); // the list says how many items each project has
    }
    page.classList.remove("hs-offline");
  } catch {
    page.classList.add("hs-offline");
  } finally {
    isPolling = false;
  }
}

const totalOf = (found) => Object.values(found.statuses).reduce((sum, count) => sum + count, 0);
const total = () => totalOf(state);

function draw() {
  const count = total();
  const parts = Object.entries(STATUS_TITLES).filter(([name]) => state.statuses[name]);
  find(".hs-status-bar").replaceChildren(
    ...parts.map(([name, title]) =>
      build("span", {
        class: `hs-part hs-part-${name}`,
        style: `flex-grow:${state.statuses[name]}`,
        title: `${formatCount(state.statuses[name])} ${title}`,
      }),
    ),
  );
  find(".hs-status-list").replaceChildren(
    build("li", {}, [
      build("strong", { text: formatCount(count) }),
      build("span", { text: count === 1 ? "item" : "items" }),
    ]),
    ...parts.map(([name, title]) =>
      build("li", {}, [
        build("i", { class: `hs-part-${name}` }),
        build("strong", { text: formatCount(state.statuses[name]) }),
        build("span", {
          text:
            name === "auto_accepted" && state.audits
              ? `${title}, ${formatCount(state.audits)} of them to audit`
              : title,
        }),
      ]),
    ),
  );
  page.classList.toggle("hs-no-items", !count);
  importing.draw(state.import);
  const classes = find(".hs-classes");
  if (classes !== document.activeElement) classes.value = state.settings.classes.join(", ");
  suggestModel();
  if (!isScopeChosen) find(".hs-item-scope").value = state.is_to_verify ? "open" : "new";
  drawRuns();
  drawComparison();
  fillSelect(
    find(".hs-filter-category"),
    [["", "All categories"], ...state.categories.map((name) => [name, name])],
    find(".hs-filter-category").value,
  );
  fillSelect(
    find(".hs-filter-reviewer"),
    [["", "All reviewers"], ...state.reviewers.map((name) => [name, name])],
    find(".hs-filter-reviewer").value,
  );
}

// The built-in model is suggested only for images of its own domain.
function suggestModel() {
  const input = find(".hs-label-model");
  const suggested = state.image_domains.every((domain) => props.value.made_for.includes(domain))
    ? props.value.model
    : "";
  if (isModelChosen || input.value === suggested) return;
  input.value = suggested;
  if (!find("#hs-panel-propose").hidden) describeScoreBasis();
}

const isRunning = () => Boolean(state?.runs.some((run) => ACTIVE_RUNS.includes(run.state)));

function drawStart() {
  find(".hs-start-run").disabled = isRunning() || !find(".hs-label-model").value.trim();
}

function drawRuns() {
  drawStart();
  find(".hs-runs-of-project").replaceChildren(
    ...state.runs.map((run) => {
      const share = run.total ? run.step / run.total : 0;
      const command = (name, text, title = null, more = {}) =>
        build("button", {
          type: "button",
          text,
          title,
          onclick: async (event) => {
            await call(name, { run: run.id, ...more }, event.target);
            signature = "";
            poll();
          },
        });
      const isStopping = run.state === "stopping";
      const isOn = ACTIVE_RUNS.includes(run.state);
      return build("li", { class: "hs-label-run" }, [
        build("div", { class: "hs-label-run-line" }, [
          build("span", {
            class: `hs-pill hs-pill-${run.is_paused && isOn && !isStopping ? "queued" : run.state}`,
            text: run.is_paused && isOn && !isStopping ? "paused" : describeState(run.state),
          }),
          build("span", { text: `${formatCount(run.step)} of ${formatCount(run.total)} items` }),
          build("span", { class: "hs-muted", text: [run.model, etaOf(run)].filter(Boolean).join(" · ") }),
          build("span", { class: "hs-spacer" }),
          isOn && !isStopping && !props.value?.note ? command("pause", run.is_paused ? "Resume" : "Pause") : null,
          isOn
            ? command(
                "stop",
                isStopping ? "Force stop" : "Stop",
                isStopping ? "Stop without finishing the batch" : "Stop after this batch; finished labels are kept",
                { now: isStopping },
              )
            : null,
          ["stopped", "failed", "lost"].includes(run.state) ? command("resume", "Resume") : null,
        ]),
        progressBar("Items", share),
        run.error ? build("p", { class: "hs-bad", role: "alert", text: run.error }) : null,
      ]);
    }),
  );
}

const DIFFERENCES = {
  fixed: "Now correct from crop",
  broken: "No longer correct",
  moved: "Region moved",
  same: "Unchanged",
  unclear: "Not comparable (not verified in one of the runs)",
};

function drawComparison() {
  const done = state.runs.filter((run) => run.step > 0 && !ACTIVE_RUNS.includes(run.state));
  find(".hs-compare-runs").hidden = done.length < 2;
  if (done.length < 2) return;
  const options = done.map((run) => [run.id, `${run.id.slice(0, 15)} · ${run.model}`]);
  const [before, after] = [find(".hs-run-before"), find(".hs-run-after")];
  const isFirst = !before.options.length;
  fillSelect(before, options, isFirst ? done[1].id : before.value);
  fillSelect(after, options, isFirst ? done[0].id : after.value);
}

async function compareRuns() {
  const response = await call(
    "diff_labels",
    { before: find(".hs-run-before").value, after: find(".hs-run-after").value },
    find(".hs-compare-start"),
  );
  if (!response?.counts) return;
  const names = Object.keys(DIFFERENCES);
  find(".hs-label-diff").replaceChildren(
    table(
      ["Evidence", ...names.map((name) => DIFFERENCES[name])],
      response.counts.map((row) => [row.kind, ...names.map((name) => formatCount(row[name]))]),
    ),
    ...(response.changes.length
      ? [
          build("div", { class: "hs-table-host" }, [
            buildTable(
              [],
              response.changes.map((row) => [
                DIFFERENCES[row.change] ?? row.change,
                build("td", {}, [openButton(row)]),
                build("td", { class: "hs-number", text: row.iou === null ? "–" : `IoU ${row.iou.toFixed(2)}` }),
              ]),
            ),
          ]),
        ]
      : []),
  );
}

// Estimated from the progress between polls; steady after a few of them.
const seenSteps = new Map();
function etaOf(run) {
  if (run.state !== "running" || run.is_paused) {
    seenSteps.delete(run.id);
    return "";
  }
  const now = performance.now();
  const first = seenSteps.get(run.id) ?? { step: run.step, at: now };
  seenSteps.set(run.id, first);
  if (run.step <= first.step) return "";
  const seconds = ((run.total - run.step) * (now - first.at)) / (run.step - first.step) / 1000;
  return seconds < 90 ? `about ${Math.ceil(seconds)} s left` : `about ${Math.ceil(seconds / 60)} min left`;
}

// ---- run ------------------------------------------------------------------------------------------------------------

function runRequest() {
  const untouched = ["new", "failed"];
  const statuses = {
    new: untouched,
    open: [...untouched, "proposed", "auto_accepted"],
    all: Object.keys(STATUS_TITLES),
  };
  return {
    model: find(".hs-label-model").value,
    rollouts: Number(find(".hs-rollouts").value),
    is_refining: find(".hs-refine-boxes").checked,
    auto_accept: !find(".hs-no-auto-accept").checked,
    statuses: statuses[find(".hs-item-scope").value],
  };
}

async function startRun() {
  const { warnings = [] } = (await describeScoreBasis()) ?? {};
  if (warnings.length && !confirm(`${warnings.join("\n")}\n\nStart with this model anyway?`)) return;
  const response = await call("start", runRequest(), find(".hs-start-run"));
  drawStart();
  if (response) {
    signature = "";
    poll();
  } else removeDuplicateNotes();
}

// Show an error once: above, not in the notes as well.
function removeDuplicateNotes() {
  for (const note of page.querySelectorAll(".hs-score-notes li"))
    if (note.textContent === message.textContent) note.remove();
}

// Show what the scores would be based on, before a run starts. Only the newest request counts.
let scoresAsked = 0;
async function describeScoreBasis() {
  const host = find(".hs-score-notes");
  const asked = ++scoresAsked;
  drawStart();
  if (!project || !props.value.is_open) return host.replaceChildren();
  if (!find(".hs-label-model").value.trim()) {
    return host.replaceChildren(
      build("li", { class: "hs-warning", text: `Choose a model. ${props.value.domain_hint}` }),
    );
  }
  const response = await ask("describe_score_basis", { project, ...runRequest() }).catch(() => undefined);
  if (asked !== scoresAsked) return;
  const found = response ?? { basis: "", cautions: [], warnings: [] };
  host.replaceChildren(
    ...present([
      ...(found.warnings ?? []).map((text) => build("li", { class: "hs-warning", text })),
      ...(found.error ? [found.error] : found.cautions).map((text) => build("li", { class: "hs-warned", text })),
      found.basis ? build("li", { text: found.basis }) : null,
    ]),
  );
  removeDuplicateNotes();
  return found;
}

let scoresTimer = null;
function describeScoreBasisSoon() {
  clearTimeout(scoresTimer);
  scoresTimer = setTimeout(describeScoreBasis, 300);
}

// ---- wiring ---------------------------------------------------------------------------------------------------------

function load() {
  const value = props.value;
  fillSelect(find(".hs-kind"), [["auto", "Auto-detect"], ...value.kinds.map(([title, name]) => [name, title])], "auto");
  fillSelect(
    find(".hs-format"),
    value.formats.map(([title, name]) => [name, title]),
    value.formats[0][1],
  );
  find(".hs-model-list").replaceChildren(
    ...value.models.map(([title, name]) => build("option", { value: name, text: title })),
  );
  find(".hs-filter-status").replaceChildren(
    build("option", { value: "", text: "All statuses" }),
    ...Object.entries(STATUS_TITLES).map(([name, title]) => build("option", { value: name, text: title })),
  );
  for (const node of page.querySelectorAll(".hs-requires-write")) node.hidden = !value.is_open;
  find(".hs-label-closed").hidden = value.is_open;
  find(".hs-label-model").placeholder = value.model_hint;
  find(".hs-rollouts").max = value.max_rollouts;
  find(".hs-session-note").textContent = value.note;
  find(".hs-source-field").hidden =
    find(".hs-train-on").hidden =
    find(".hs-keep-image-paths-field").hidden =
      Boolean(value.note);
  importing.showFields();
  find(".hs-session-note").hidden = !value.note;
  if (value.note) {
    find(".hs-file-label").textContent = "Upload file (.zip, .csv, .tsv, .jsonl)";
    find(".hs-file").title = "A zip of images, with or without a table of questions, or a table with embedded images.";
    find(".hs-file").accept = ".zip,.csv,.tsv,.jsonl";
  }
}

const on = (name, event, act) => find(name).addEventListener(event, act);
on(".hs-project", "change", (event) => choose(event.target.value));
on(".hs-create", "click", create);
on(".hs-new-name", "keydown", (event) => event.key === "Enter" && create());
on(".hs-start-run", "click", startRun);
for (const name of [".hs-label-model", ".hs-rollouts"]) on(name, "input", describeScoreBasisSoon);
on(".hs-label-model", "input", () => {
  isModelChosen = true;
  drawStart();
});
on(".hs-refine-boxes", "change", describeScoreBasisSoon);
on(".hs-item-scope", "change", () => {
  isScopeChosen = true;
});
on(".hs-start-review", "click", startReview);
on(".hs-accept-all", "click", acceptAll);
on(".hs-list-previous", "click", () => list(Math.max(0, shownList.offset - 50)));
on(".hs-list-next", "click", () => list(shownList.offset + 50));
on(".hs-classes", "change", changeClasses);
on(".hs-export", "click", exportLabels);
on(".hs-train-on", "click", () => trigger("train_on", { project }));
on(".hs-compare-start", "click", compareRuns);
for (const node of page.querySelectorAll(".hs-filter"))
  node.addEventListener(node.type === "search" ? "input" : "change", () => list(0));
for (const node of page.querySelectorAll(".hs-export-choice")) node.addEventListener("change", losses);
find(".hs-reviewer").value = withStorage((storage) => storage.getItem(REVIEWER_KEY)) ?? "";
watch("value", load);
load();
openPanel("import");
listProjects(new URLSearchParams(location.search).get("project") ?? undefined);
keepPolling(poll, POLL_MILLISECONDS, HIDDEN_POLL_MILLISECONDS);
