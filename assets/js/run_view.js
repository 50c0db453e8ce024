// Live view of one run: state, rollouts, curves, log. Polls every second for what is new.
const POLL_MILLISECONDS = 1000;
const HIDDEN_POLL_MILLISECONDS = 5000;
const RUN_LIST_EVERY = 4; // polls
const MAX_LOG_CHARACTERS = 200000;
const ACTIVE_STATES = ["queued", "running", "stopping"];
const OUT_OF_MEMORY_ADVICE =
  "Out of memory. Lower schedule.rl_micro_batch_size, rollout.group_size or the " +
  "pixel budgets, enable LoRA and gradient checkpointing, or use a smaller model.";

const view = element.querySelector(".hs-run");
const find = (name) => view.querySelector(name);
const emptyTable = () => ({ steps: [], metrics: {} });
let run = null;
let known = {};
let about = null;
let runStatus = null;
let pace = null;
let warnings = { count: 0, newest: [] };
let markers = [];
let steps = emptyTable();
let evaluations = emptyTable();
let recent = {}; // metric -> [mean, steps] of the last steps
let heldOut = null; // identity of the held-out questions
let weight = 0.6;
let pollCount = 0;
let runs = [];
let signature = "";
let isPolling = false;
let choices = 0;
let lastLine = ""; // last line of the log, unprocessed
let statusAt = 0;
let messageStates = null; // run states in which the shown message stays; null = all
let checkpoint = null; // selected step; null = the newest

const rolloutViewer = createRolloutViewer(find(".hs-rollout-viewer-host"), describeNoRollouts);

// The run of this page is in its address, so a reload or a second tab shows the same one.
const runOfAddress = () => new URLSearchParams(location.search).get("run");

function choose(id) {
  run = id;
  choices++;
  known = {};
  about = runStatus = pace = checkpoint = null;
  markers = [];
  warnings = { count: 0, newest: [] };
  steps = emptyTable();
  evaluations = emptyTable();
  recent = {};
  heldOut = null;
  find(".hs-log pre").textContent = "";
  putIntoAddress({ run: id });
  rolloutViewer.reset(id);
  drawHead();
  drawCharts();
  poll();
}

const isShown = () => view.offsetParent !== null;

async function poll() {
  if (isPolling) return;
  isPolling = true;
  try {
    // A hidden page lists the runs once, so that it is there when it is opened.
    if (pollCount++ % RUN_LIST_EVERY === 0) await pollRuns();
    if (run && isShown()) {
      const asked = choices;
      const response = await askServer("poll", { run, ...known });
      if (asked === choices) applyResponse(response); // else another run was chosen meanwhile
    }
    view.classList.remove("hs-offline");
  } catch {
    view.classList.add("hs-offline"); // the server is not responding; the next poll tries again
  } finally {
    isPolling = false;
  }
}

// On a Space only the owner sees runs: show visitors the reason instead of a run.
function showEmptyReason(reason) {
  find(".hs-no-run strong").textContent = "Runs not available";
  find(".hs-no-run p").textContent = toSentence(reason);
  find(".hs-go-to-train").hidden = true;
  view.classList.add("hs-run-none");
}

// Hide the button to the Train tab where training is disabled.
function showEmptyHint() {
  const mayAct = Boolean(props.value?.is_open);
  find(".hs-go-to-train").hidden = !mayAct;
  if (!mayAct)
    find(".hs-no-run p").textContent =
      "Training is disabled on this page. Runs started in a terminal on this machine appear here within seconds.";
}

function fillPicker() {
  const listed = runs.map((item) => [item.id, `${item.title} · ${item.stages} · ${describeState(item.state)}`]);
  fillSelect(find(".hs-run-picker"), listed.length ? listed : [["", "No runs"]], run ?? "");
}

async function pollRuns() {
  const response = await askServer("list_runs", { signature });
  if (response?.error) return showEmptyReason(response.error);
  if (!response) return;
  ({ signature, runs } = response);
  if (!run || !runs.some((item) => item.id === run)) {
    const wanted = runOfAddress();
    const first =
      runs.find((item) => item.id === wanted) ?? runs.find((item) => ACTIVE_STATES.includes(item.state)) ?? runs[0];
    if (first) choose(first.id);
    else if (run) choose(null);
  }
  fillPicker();
  view.classList.toggle("hs-run-none", !runs.length);
  if (!runs.length) showEmptyHint();
}

function applyResponse(response) {
  if (!response) return drawTiming();
  if (response.error) return;
  if (response.about) about = response.about;
  if (response.status) {
    runStatus = response.status;
    statusAt = Date.now();
    known.status = runStatus.signature;
    // The list of runs is polled less often; keep its state consistent with the run.
    const listed = runs.find((item) => item.id === run);
    if (listed && listed.state !== runStatus.state) {
      listed.state = runStatus.state;
      fillPicker();
    }
    if (messageStates && !messageStates.includes(runStatus.state)) showMessage("");
  }
  if (response.log) appendLog(response.log);
  if (response.delta) applyDelta(response.delta, response.cursor);
  drawHead();
}

function applyDelta(delta, cursor) {
  if (delta.is_full) {
    steps = emptyTable();
    evaluations = emptyTable();
    markers = [];
  }
  mergeTable(steps, delta.steps);
  mergeTable(evaluations, delta.evaluations);
  markers.length = Math.min(markers.length, delta.markers.first);
  markers.push(...delta.markers.items);
  warnings = delta.warnings ?? warnings;
  pace = delta.seconds_per_step;
  recent = delta.recent;
  heldOut = delta.held_out;
  known.cursor = cursor;
  drawCharts();
  rolloutViewer.setMarks(stepsOf("rollouts"), stepsOf("held_out"));
  drawCheckpoints(stepsOf("checkpoint"));
}

function appendLog(part) {
  const pre = find(".hs-log pre");
  const isAtEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
  // Progress bars overwrite their line with carriage returns; show the final text.
  const before = part.is_first ? "" : pre.textContent.slice(0, pre.textContent.lastIndexOf("\n") + 1);
  const lines = ((part.is_first ? "" : lastLine) + part.text).split("\n");
  lastLine = lines.at(-1).slice(lines.at(-1).lastIndexOf("\r", lines.at(-1).length - 2) + 1);
  const shown = lines.map((line) => line.replace(/\r+$/, "").split("\r").at(-1));
  pre.textContent = (before + shown.join("\n")).slice(-MAX_LOG_CHARACTERS);
  known.attempt = part.attempt;
  known.log_offset = part.offset;
  if (isAtEnd || part.is_first) pre.scrollTop = pre.scrollHeight;
}

const span = (seconds) => {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.round((seconds % 3600) / 60)).padStart(2, "0")} min`;
};

// Current activity. The run reports phases other than steps; steps are counted here.
function phaseOf() {
  if (runStatus.phase || !ACTIVE_STATES.includes(runStatus.state)) return runStatus.phase ?? "";
  if (!runStatus.total) return "";
  return runStatus.step >= runStatus.total ? "finishing" : `running step ${formatCount(runStatus.step + 1)}`;
}

// Placeholder of the rollout viewer: [title, text].
function describeNoRollouts(isHeldOut) {
  if (!run || !runStatus) return ["Loading the run…", ""];
  const { schedule, method } = about?.settings ?? {};
  const isOff = schedule && (isHeldOut ? !schedule.eval_steps : !schedule.rollout_log_steps);
  const isSft = method && !isHeldOut && method.stages === "sft";
  const reason = isSft
    ? "SFT trains without rollouts. Held-out questions are recorded with every evaluation."
    : isOff
      ? `Recording is off: “${isHeldOut ? "Eval steps" : "Rollout log steps"}” is 0.`
      : "";
  if (!ACTIVE_STATES.includes(runStatus.state))
    return ["No rollouts recorded", reason || "The run ended before its first record."];
  const phase = phaseOf();
  const next =
    reason ||
    (runStatus.step === 0 && schedule?.eval_steps
      ? "Held-out questions appear first, then training rollouts from step 1 on: "
      : "Rollouts appear here: ") + "the image, every box, the crops and the answers.";
  return ["No rollouts yet", `${phase ? `Now: ${phase}. ` : ""}${next}`];
}

function drawTiming() {
  if (!runStatus) return;
  const age = typeof runStatus.age === "number" ? runStatus.age + (Date.now() - statusAt) / 1000 : null;
  const isRunning = runStatus.state === "running" || runStatus.state === "stopping";
  const parts = [];
  if (pace) parts.push(`${formatNumber(pace)} s/step`);
  if (isRunning && pace && runStatus.step < runStatus.total)
    parts.push(`about ${span((runStatus.total - runStatus.step) * pace)} left`);
  if (isRunning && age !== null) parts.push(age < 10 ? "active" : `last heartbeat ${span(age)} ago`);
  if (runStatus.attempt > 1) parts.push(`attempt ${runStatus.attempt}`);
  find(".hs-run-timing").textContent = parts.join(" · ");
  // A screen reader announces phases, not every step.
  find(".hs-run-phase").setAttribute("aria-live", runStatus.phase ? "polite" : "off");
  find(".hs-run-phase").textContent = phaseOf();
  rolloutViewer.refresh();
  view.classList.toggle("hs-stale", isRunning && age > 60);
}

function drawHead() {
  const state = runStatus?.state ?? "";
  view.classList.toggle("hs-run-empty", !run);
  find(".hs-run-title").textContent = about?.title ?? run ?? "";
  find(".hs-run-facts").textContent = about
    ? [about.stages, about.model, about.group_size ? `G = ${about.group_size}` : "", about.device]
        .filter(Boolean)
        .join(" · ")
    : "";
  const pill = find(".hs-pill");
  pill.textContent = describeState(state);
  pill.className = `hs-pill hs-pill-${state}`;
  const percent = runStatus?.total ? Math.min(100, (runStatus.step / runStatus.total) * 100) : 0;
  find(".hs-run-progress > div").style.width = `${percent}%`;
  find(".hs-run-progress").setAttribute("aria-valuenow", Math.round(percent));
  find(".hs-run-steps").textContent = runStatus?.total
    ? `${formatCount(runStatus.step ?? 0)} of ${formatCount(runStatus.total)} steps`
    : "";
  const isActive = ACTIVE_STATES.includes(state);
  const mayAct = Boolean(props.value?.is_open);
  drawEnd(state, mayAct);
  rolloutViewer.refresh();
  find("[data-command=stop]").hidden = !isActive || !mayAct;
  find("[data-command=stop]").textContent = state === "stopping" ? "Force stop" : "Stop and save";
  find("[data-command=resume]").hidden = !["stopped", "failed", "lost"].includes(state) || !mayAct;
  find("[data-command=delete]").hidden = !run || isActive || !mayAct;
  const note = find(".hs-run-warnings");
  note.hidden = !warnings.count;
  note.querySelector("summary").textContent =
    `${formatCount(warnings.count)} warning${warnings.count === 1 ? "" : "s"}`;
  note
    .querySelector("ul")
    .replaceChildren(
      ...warnings.newest.toReversed().map(([step, text]) => build("li", { text: `step ${step}: ${text}` })),
    );
  drawTiming();
}

const stepsOf = (kind) =>
  [...new Set(markers.filter(([name]) => name === kind).map(([, step]) => step))].sort((a, b) => a - b);

// Why a run ended early. A stopped run is not shown as failed.
function drawEnd(state, mayAct) {
  const end = find(".hs-run-outcome");
  const isBad = ["failed", "lost", "unreadable"].includes(state);
  end.hidden = !isBad && state !== "stopped";
  if (end.hidden) return;
  end.classList.toggle("hs-run-failed", isBad);
  end.setAttribute("role", isBad ? "alert" : "status");
  const saved = stepsOf("checkpoint").at(-1);
  const rest =
    state === "unreadable"
      ? ""
      : saved === undefined
        ? `No checkpoint saved yet${mayAct ? "; Resume starts over" : ""}.`
        : `Last checkpoint: step ${formatCount(saved)}${mayAct ? "; Resume continues from it" : ""}.`;
  const cause =
    state === "lost"
      ? "The process ended without an error message. It may have been killed, or the machine was restarted."
      : runStatus.error;
  const lines = find(".hs-log pre").textContent.trimEnd().split("\n").slice(-4).join("\n");
  end.replaceChildren(
    ...(isBad
      ? present([
          build("strong", { text: `Run ${{ lost: "crashed", unreadable: "unreadable" }[state] ?? "failed"}` }),
          build("p", { text: cause }),
          /memory/i.test(cause) ? build("p", { text: OUT_OF_MEMORY_ADVICE }) : null,
          rest ? build("p", { text: rest }) : null,
          lines ? build("pre", { text: lines }) : null,
        ])
      : [build("strong", { text: toSentence(cause || "stopped on request") }), build("span", { text: ` ${rest}` })]),
  );
}

function drawCheckpoints(list) {
  const picker = find(".hs-checkpoints");
  fillSelect(
    picker,
    list.toReversed().map((step) => [step, `step ${formatCount(step)}`]),
    list.includes(checkpoint) ? checkpoint : list.at(-1),
  );
  find(".hs-open-checkpoint").hidden = !list.length;
}

function drawCharts() {
  const host = find(".hs-charts");
  const charts = props.value?.charts ?? [];
  while (host.childElementCount < charts.length) host.append(build("figure", { class: "hs-chart" }));
  charts.forEach((chart, index) => {
    const table = chart.is_held_out ? evaluations : steps;
    const lines = chart.lines
      .map(([name, label], place) => ({
        label,
        color: CHART_COLORS[place],
        points: pointsOf(table, name),
        isSparse: chart.is_held_out,
      }))
      .filter((line) => line.points.length);
    const figure = host.children[index];
    figure.hidden = !lines.length;
    const title = chart.is_held_out && heldOut ? `${chart.title} (${setName(heldOut, [])})` : chart.title;
    if (lines.length)
      drawChart(figure, { ...chart, title, lines, current: currentValue(chart, { evaluations, recent }) }, weight);
  });
  const isEmpty = charts.every((chart, index) => host.children[index].hidden);
  find(".hs-no-charts").hidden = !isEmpty;
  find(".hs-section-bar label").hidden = isEmpty;
}

// Show the result of a command; with states, only while the run is in one of them.
function showMessage(text, states = null, isBad = false) {
  messageStates = states;
  find(".hs-run-message").textContent = text;
  find(".hs-run-message").classList.toggle("hs-bad", isBad);
}

async function command(name) {
  if (!run) return;
  if (
    name === "delete" &&
    !confirm(`Delete the run “${about?.title ?? run}” and its checkpoints? This cannot be undone.`)
  )
    return;
  const now = name === "stop" && runStatus?.state === "stopping";
  if (now && !confirm("Stop now, without finishing the step or saving a checkpoint?")) return;
  const response = await askServer(name, { run, now }).catch((error) => ({ error: error.message }));
  if (response?.error) showMessage(response.error, null, true);
  else if (name === "stop")
    showMessage(now ? "Stopping now." : "Stopping after this step; a checkpoint will be saved.", ACTIVE_STATES);
  else if (name === "resume") showMessage("Queued.", ["queued"]);
  else showMessage("Deleted.");
  if (name === "delete" && !response?.error) run = null;
  pollCount = 0;
  poll();
}

view
  .querySelectorAll("[data-command]")
  .forEach((button) => button.addEventListener("click", () => command(button.dataset.command)));
find(".hs-go-to-train").addEventListener("click", () => openTab("Train"));
find(".hs-open-checkpoint button").addEventListener("click", () =>
  trigger("open_model", { run, step: Number(find(".hs-checkpoints").value) }),
);
find(".hs-checkpoints").addEventListener("change", (event) => {
  checkpoint = Number(event.target.value);
});
find(".hs-run-picker").addEventListener("change", (event) => selectRun(event.target.value));
find(".hs-smoothing").addEventListener("input", (event) => {
  weight = Number(event.target.value);
  drawCharts();
});

// Select another run and clear the message of the last one.
function selectRun(id) {
  showMessage("");
  choose(id);
}

watch("value", () => {
  if (props.value?.run && props.value.run !== run) selectRun(props.value.run);
  drawCharts();
});
if (props.value?.run) choose(props.value.run);
drawHead();
drawCharts();
keepPolling(poll, POLL_MILLISECONDS, HIDDEN_POLL_MILLISECONDS);
