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
const BULK_POLL_MILLISECONDS = 500;
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
let shownList = { offset: 0, count: 0, acceptable: { labels: 0, unscored: 0, empty: 0, auto_accepted: 0 } };
let isPolling = false;
let isScopeChosen = false; // whether a person has chosen which items to label
let isModelChosen = false; // whether a person has chosen the model for this project
let polledAt = -Infinity;
let listed = []; // all projects, also those that the list does not show

const base = () => props.value?.marker?.url?.replace(/[^/]*$/, "") ?? "";
const addressOf = (path) => base() + path.split("/").map(encodeURIComponent).join("/");
const ask = (name, request) => askServer(name, withSessionToken(request));
// An answer about the project that was open before is dropped.
const callServer = createCall(showMessage, ask, (name) => {
  const asked = project;
  return () => asked === project || ["projects", "create", "trash", "restore"].includes(name);
});
const review = createReview(page, ask, addressOf, () => {
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
  const address = new URL(location.href);
  if (id) address.searchParams.set("project", id);
  else address.searchParams.delete("project");
  history.replaceState(null, "", address);
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
const countOf = (...names) => names.reduce((sum, name) => sum + (state.statuses[name] ?? 0), 0);

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
        build(
          "div",
          {
            class: "hs-progress",
            role: "progressbar",
            "aria-label": "Items",
            "aria-valuemin": 0,
            "aria-valuemax": 100,
            "aria-valuenow": Math.round(share * 100),
          },
          [build("div", { style: `width:${share * 100}%` })],
        ),
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
  unclear: "Not comparable (one run failed)",
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
            build("table", {}, [
              build(
                "tbody",
                {},
                response.changes.map((row) =>
                  build("tr", {}, [
                    build("td", { text: row.change }),
                    build("td", {}, [
                      build("button", {
                        type: "button",
                        class: "hs-link",
                        text: row.question,
                        onclick: () => openItem(row.id),
                      }),
                    ]),
                    build("td", { class: "hs-number", text: row.iou === null ? "–" : `IoU ${row.iou.toFixed(2)}` }),
                  ]),
                ),
              ),
            ]),
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
    is_auto_accepting: !find(".hs-no-auto-accept").checked,
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

// ---- review ---------------------------------------------------------------------------------------------------------

function filter() {
  const score = find(".hs-filter-score").value;
  const status = find(".hs-filter-status").value;
  return {
    statuses: status ? [status] : [],
    category: find(".hs-filter-category").value || null,
    reviewer: find(".hs-filter-reviewer").value || null,
    text: find(".hs-filter-text").value,
    min_score: score === "" ? null : Number(score),
    is_uncalibrated: find(".hs-filter-uncalibrated").checked,
  };
}

const reviewer = () => find(".hs-reviewer").value.trim();

function startReview() {
  if (!reviewer()) {
    showMessage("Enter your name first. It is saved with each decision.", true);
    return find(".hs-reviewer").focus();
  }
  withStorage((storage) => storage.setItem(REVIEWER_KEY, reviewer()));
  showMessage("");
  return review.open({ project, reviewer: reviewer(), filter: filter() });
}

async function openItem(id) {
  if (!reviewer()) return startReview();
  return review.open({ project, reviewer: reviewer(), filter: filter() }, id);
}

// A label with a caution waits for review, whatever its score.
const tagsOf = (row) =>
  (row.status === "proposed" ? row.cautions : []).map((name) =>
    build("span", {
      class: "hs-tag hs-caution",
      text: CAUTION_TAGS[name] ?? name,
      title: `Never auto-accepted: ${CAUTIONS[name] ?? name}`,
    }),
  );

async function list(offset) {
  if (!project) return;
  const response = await call("list_items", { filter: filter(), offset });
  if (!response?.rows) return;
  shownList = { offset, count: response.count, acceptable: response.acceptable };
  find(".hs-list-count").textContent = `${formatCount(response.count)} item${response.count === 1 ? "" : "s"}`;
  find(".hs-list-previous").disabled = offset === 0;
  find(".hs-list-next").disabled = offset + response.rows.length >= response.count;
  const button = find(".hs-accept-all");
  button.disabled = !response.acceptable.labels || isAccepting;
  button.textContent = response.acceptable.labels
    ? `Accept all ${formatCount(response.acceptable.labels)}`
    : "Accept all";
  button.title = response.acceptable.auto_accepted ? "Auto-accepted labels are excluded." : "";
  if (response.unfinished && !isAccepting) showMessage(response.unfinished, true);
  find(".hs-list tbody").replaceChildren(
    ...(response.rows.length
      ? response.rows.map((row) =>
          build("tr", {}, [
            build("td", {}, [
              build("button", {
                type: "button",
                class: "hs-link",
                text: row.question,
                onclick: () => openItem(row.id),
              }),
            ]),
            build("td", { class: "hs-truncate", text: row.name, title: row.name }),
            build("td", {}, [
              build("i", { class: `hs-dot hs-part-${row.status}` }),
              build("span", { text: STATUS_TITLES[row.status] }),
              ...tagsOf(row),
            ]),
            build("td", { class: "hs-number", text: row.score_text, title: row.score_reason || null }),
            build("td", { text: row.reviewer || row.note, title: row.note || null, class: "hs-truncate" }),
          ]),
        )
      : [
          build("tr", {}, [
            build("td", {
              colspan: 5,
              class: "hs-muted",
              text: state && total() ? "No matching items." : "No items yet. Import a dataset first.",
            }),
          ]),
        ]),
  );
}

// Confirmation text of a bulk accept.
function describeAccept({ labels, unscored, empty, auto_accepted: autoAccepted }) {
  const count = (number, one, many) => `${formatCount(number)} ${number === 1 ? one : many}`;
  return present([
    `Accept ${count(labels, "label", "labels")} as ${reviewer()}?`,
    unscored ? `${count(unscored, "has", "have")} no calibrated score, so the error rate is unknown.` : null,
    empty
      ? `${count(empty, "label without a box is", "labels without a box are")} ` +
        `skipped; review ${empty === 1 ? "it" : "them"} one by one.`
      : null,
    autoAccepted
      ? `${count(autoAccepted, "auto-accepted label is", "auto-accepted labels are")} ` +
        `skipped; the audit counts only individual decisions.`
      : null,
    "One undo in the review reverts all of them.",
  ]).join("\n\n");
}

let isAccepting = false;

async function acceptAll() {
  if (!reviewer()) return startReview();
  const { acceptable } = shownList;
  if (isAccepting || !confirm(describeAccept(acceptable))) return;
  const button = find(".hs-accept-all");
  isAccepting = button.disabled = true;
  const asked = project;
  let response;
  try {
    response = await call("accept_all", { filter: filter(), expected: acceptable.labels, reviewer: reviewer() });
    while (response && !response.is_over && asked === project) {
      showMessage(`Accepting: ${formatCount(response.done)} of ${formatCount(response.total)}…`);
      await new Promise((resolve) => setTimeout(resolve, BULK_POLL_MILLISECONDS));
      response = await call("bulk_progress", {});
    }
  } finally {
    isAccepting = false;
  }
  signature = "";
  poll();
  await list(0);
  if (response?.is_over)
    showMessage(
      response.error
        ? `${response.error} ${formatCount(response.done)} of ${formatCount(response.total)} were accepted.`
        : response.summary,
      Boolean(response.error),
    );
}

// ---- quality --------------------------------------------------------------------------------------------------------

const table = (heads, rows) =>
  build("div", { class: "hs-table-host" }, [
    build("table", {}, [
      build("thead", {}, [
        build(
          "tr",
          {},
          heads.map((text) => build("th", { scope: "col", text, title: text === "IoG > 0.3" ? IOG_HELP : null })),
        ),
      ]),
      build(
        "tbody",
        {},
        rows.map((row) =>
          build(
            "tr",
            {},
            row.map((text) => build("td", { text })),
          ),
        ),
      ),
    ]),
  ]);

// How to get an error rate of auto-accepted labels.
function howToAudit() {
  if (state?.audits)
    return (
      ` To measure it, click Start review: ${formatCount(state.audits)} randomly sampled auto-accepted ` +
      `${state.audits === 1 ? "label is" : "labels are"} at the end of the queue.`
    );
  return state?.statuses.auto_accepted ? " In Review, filter by the status auto-accepted and review these labels." : "";
}

async function measure() {
  if (!project) return;
  const host = find(".hs-quality");
  const response = await call("quality", {});
  if (!response?.figures) return;
  host.replaceChildren(
    build("p", {
      class: "hs-muted",
      text: "Known-answer and agreement evidence are reported separately. Intervals are 95 % Wilson intervals.",
    }),
    table(
      [
        "Evidence",
        "Labels",
        "Uncalibrated",
        "Crop accuracy",
        "Full-image accuracy",
        "Crops - full image (points)",
        "Region necessary (masking test)",
      ],
      response.evidence.map((row) => [
        row.kind,
        formatCount(row.labels),
        formatCount(row.uncalibrated),
        row.verified,
        row.full_image,
        row.accuracy_gain,
        row.needed,
      ]),
    ),
    build("p", {
      text: response.audited
        ? `Audit: of ${formatCount(response.audited)} auto-accepted ` +
          `labels reviewed one by one, ${response.audit} were confirmed.`
        : "Audit: no auto-accepted label has been reviewed yet, so the error rate is unknown." + howToAudit(),
    }),
    ...(response.gold.length
      ? [
          table(
            ["Gold boxes", "IoG > 0.3", "Mean IoU", "Auto-accept precision", "Auto-accept recall"],
            response.gold.map((row) => [row.kind, row.found, row.iou, row.precision, row.recall]),
          ),
        ]
      : []),
    ...(response.reviewers.length
      ? [
          table(
            ["Reviewer", "Actions", "Median time"],
            response.reviewers.map((row) => [
              row.reviewer,
              Object.entries(row.decisions)
                .map(([name, count]) => `${count} ${name.replace("_", " ")}`)
                .join(", "),
              row.seconds === null ? "–" : formatSeconds(row.seconds),
            ]),
          ),
        ]
      : []),
    ...(response.agreement.items
      ? [
          build("p", {
            text:
              `Inter-annotator agreement on ${response.agreement.items} items: mean IoU ` +
              `${response.agreement.iou?.toFixed(2) ?? "–"}, Cohen's ` +
              `kappa ${response.agreement.kappa?.toFixed(2) ?? "–"}.`,
          }),
        ]
      : []),
    build(
      "div",
      { class: "hs-figures" },
      Object.entries(response.figures).map(([name, text]) => svgFigure(name.replaceAll("_", " "), text)),
    ),
    ...(response.missing ? [build("p", { class: "hs-muted", text: response.missing })] : []),
    build("p", {}, [
      build("a", {
        class: "hs-link",
        href: addressOf(response.report),
        download: "quality.html",
        text: "Download report (HTML)",
      }),
    ]),
  );
}

// ---- export ---------------------------------------------------------------------------------------------------------

const exportRequest = () => ({
  format: find(".hs-format").value,
  statuses: [...page.querySelectorAll(".hs-export-status:checked")].map((box) => box.value),
  splits: ["train", "val", "test"].map((name) => Number(find(`.hs-split-${name}`).value) / 100),
  min_score: find(".hs-export-score").value === "" ? null : Number(find(".hs-export-score").value),
  box_class: find(".hs-export-class").value,
  is_referring: find(".hs-keep-image-paths").checked,
});

async function losses() {
  if (!project) return;
  const response = await call("describe_export_loss", exportRequest());
  const host = find(".hs-export-loss");
  if (!response?.losses) return host.replaceChildren();
  host.replaceChildren(
    build("p", {}, [
      build("strong", { text: `${formatCount(response.items)} labels. ` }),
      build("span", {
        text: response.losses.length ? "Lost or changed in this format:" : "This format stores everything.",
      }),
    ]),
    build(
      "ul",
      {},
      response.losses.map((text) => build("li", { text })),
    ),
    ...drawExcluded(response.excluded),
  );
}

const drawExcluded = (reasons) =>
  Object.entries(reasons).map(([reason, count]) =>
    build("p", { class: "hs-muted", text: `${formatCount(count)} excluded: ${reason}` }),
  );

async function changeClasses() {
  const response = await call("change_classes", { classes: find(".hs-classes").value });
  if (!response?.classes) return;
  find(".hs-classes").value = response.classes.join(", ");
  await losses();
}

async function exportLabels() {
  const response = await call("export", exportRequest(), find(".hs-export"));
  if (!response?.archive) return;
  const images = Object.entries(response.images)
    .map(([split, count]) => `${count} ${split}`)
    .join(", ");
  find(".hs-export-message").replaceChildren(
    build("p", {}, [
      build("strong", { text: "Exported and verified by reading it back. " }),
      build("span", {
        text: `${formatCount(response.items)} questions, ${formatCount(response.boxes)} boxes, images: ${images}.`,
      }),
    ]),
    ...drawExcluded(response.excluded),
    ...response.notes.map((text) => build("p", { class: "hs-muted", text })),
    build("p", {}, [
      build("a", {
        class: "hs-download-link",
        href: addressOf(response.archive),
        download: response.archive.split("/").at(-1),
        text: "Download zip",
      }),
      build("span", { class: "hs-muted", text: response.folder ? ` Also saved in ${response.folder}` : "" }),
    ]),
  );
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
(function again() {
  poll().finally(() => {
    if (element.isConnected) setTimeout(again, document.hidden ? HIDDEN_POLL_MILLISECONDS : POLL_MILLISECONDS);
  });
})();
