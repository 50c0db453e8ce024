// Rollout viewer: crops, boxes, answers and rewards of the G rollouts of a question, step by step.
// Model output is inserted as text only.
const ROLLOUT_COLORS = [
  "#4d68ff",
  "#e07a1f",
  "#1f9d69",
  "#c2418f",
  "#00a3b8",
  "#b0892b",
  "#8a63d2",
  "#d94848",
  "#5f8f2f",
  "#3f7fbf",
  "#a65f2e",
  "#7a7f8f",
  "#d16ba5",
  "#2f9e9e",
  "#9a8f00",
  "#6a5acd",
];
const PLAY_MILLISECONDS = 1100;
const colorOf = (index) => ROLLOUT_COLORS[index % ROLLOUT_COLORS.length];
const formatSigned = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;

// JSON on one line, without code fence; null for other text and for text that is one line already.
function inOneLine(text) {
  const inner = text
    .trim()
    .replace(/^```[a-z]*\s/i, "")
    .replace(/```$/, "")
    .trim();
  try {
    JSON.parse(inner);
  } catch {
    return null;
  }
  const line = inner
    .replace(/([[{])\s*\n\s*/g, "$1")
    .replace(/\s*\n\s*([\]}])/g, "$1")
    .replace(/\s*\n\s*/g, " ");
  return line === text.trim() ? null : line;
}

// describeNone: held-out? -> [title, text] of the placeholder.
function createRolloutViewer(host, describeNone) {
  const state = {
    run: null,
    trained: [],
    heldOut: [],
    isHeldOut: false,
    step: null,
    group: 0,
    groups: [],
    filter: "all",
    followed: null,
    trail: [],
    gold: null,
    showsGold: false,
    isLive: true,
    isChosen: false,
    timer: null,
    lastRequest: 0,
    loading: null, // promise of the step that loads, or of the last one
    problem: "", // why the selected step cannot be shown
    shownNone: "", // placeholder that is shown
  };
  const slider = build("input", {
    type: "range",
    min: 0,
    max: 0,
    value: 0,
    "aria-label": "Recorded step",
    oninput: () => goTo(Number(slider.value)),
  });
  const stepLabel = build("output", { class: "hs-step" });
  const play = build("button", { type: "button", text: "Play", onclick: () => togglePlay() });
  const source = build(
    "select",
    { "aria-label": "Rollout source", onchange: () => chooseSource(source.value === "held-out") },
    [
      build("option", { value: "training", text: "Training rollouts" }),
      build("option", { value: "held-out", text: "Held-out (greedy)" }),
    ],
  );
  const picker = build("select", {
    "aria-label": "Question",
    onchange: () => {
      state.group = Number(picker.value);
      state.followed = null;
      drawGroup();
    },
  });
  const filter = build("select", {
    "aria-label": "Filter",
    onchange: () => {
      state.filter = filter.value;
      drawGroup();
    },
  });
  const follow = build("button", {
    type: "button",
    text: "Track question",
    "aria-pressed": "false",
    onclick: () => toggleFollow(),
  });
  const gold = build("button", {
    type: "button",
    text: "Gold boxes",
    "aria-pressed": "false",
    title: "Evaluation only; never used in training",
    onclick: () => toggleGold(),
  });
  const stage = build("div", { class: "hs-rollout-viewer-image" });
  const cards = build("div", { class: "hs-rollouts" });
  const bar = build("div", { class: "hs-rollout-viewer-bar" }, [
    source,
    picker,
    filter,
    follow,
    gold,
    build("div", { class: "hs-step-slider" }, [
      build("button", { type: "button", text: "‹", "aria-label": "Earlier step", onclick: () => move(-1) }),
      play,
      build("button", { type: "button", text: "›", "aria-label": "Later step", onclick: () => move(1) }),
      slider,
      stepLabel,
    ]),
  ]);
  host.replaceChildren(bar, build("div", { class: "hs-rollout-viewer" }, [stage, cards]));
  host.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input, pre, summary") || hasModifier(event)) return;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in moves) move(moves[event.key]);
    else if (event.key === " " && !event.target.matches("button")) togglePlay();
    else return;
    event.preventDefault();
  });

  // Recorded (step, held-out) pairs of the slider.
  const recordedSteps = () =>
    state.followed
      ? state.trail
      : (state.isHeldOut ? state.heldOut : state.trained).map((step) => [step, state.isHeldOut]);
  const stepIndex = () =>
    recordedSteps().findIndex(([step, heldOut]) => step === state.step && heldOut === state.isHeldOut);

  function reset(run) {
    stop();
    state.lastRequest++; // ignore pending responses of the previous run
    Object.assign(state, {
      run,
      trained: [],
      heldOut: [],
      step: null,
      group: 0,
      groups: [],
      followed: null,
      trail: [],
      gold: null,
      isLive: true,
      isChosen: false,
      isHeldOut: false,
    });
    source.value = "training";
    drawBar();
    drawGroup();
  }

  // Update the recorded steps; shows the newest one unless another was chosen.
  function setMarks(trained, heldOut) {
    const before = String(recordedSteps());
    state.trained = trained;
    state.heldOut = heldOut;
    // Held-out questions are recorded first; switch to training rollouts once there are any.
    if (!state.isChosen && !state.followed && state.isLive) state.isHeldOut = !trained.length && heldOut.length > 0;
    source.value = state.isHeldOut ? "held-out" : "training";
    const now = recordedSteps();
    if (now.length && (state.step === null || (state.isLive && String(now) !== before && !state.followed)))
      goTo(now.length - 1, true);
    else drawBar();
  }

  // Placeholder without a record; it changes while the run continues.
  const none = () =>
    state.problem
      ? ["Cannot show this step", state.problem]
      : state.step !== null
        ? ["Loading rollouts…", ""]
        : describeNone(state.isHeldOut);

  function refresh() {
    if (!state.groups.length && none().join("\n") !== state.shownNone) drawGroup(state.problem);
  }

  function chooseSource(isHeldOut) {
    Object.assign(state, { isHeldOut, followed: null, group: 0, isLive: true, isChosen: true });
    follow.setAttribute("aria-pressed", "false");
    if (recordedSteps().length) goTo(recordedSteps().length - 1, true);
    else {
      state.groups = [];
      state.step = null;
      drawBar();
      drawGroup();
    }
  }

  const goTo = (index, keepsLive = false) => (state.loading = loadStep(index, keepsLive));

  async function loadStep(index, keepsLive) {
    const place = recordedSteps()[index];
    if (!place) return;
    if (!keepsLive) state.isLive = index === recordedSteps().length - 1;
    [state.step, state.isHeldOut] = place;
    const requestNumber = ++state.lastRequest;
    drawBar();
    if (!state.groups.length) drawGroup();
    const answer = await askServer("rollouts", { run: state.run, step: place[0], is_held_out: place[1] });
    if (requestNumber !== state.lastRequest) return; // another step was chosen meanwhile
    if (!Array.isArray(answer)) {
      state.groups = [];
      if (!answer) state.step = null; // the next poll loads the newest step
      drawGroup(answer?.error ?? "Server not responding. Choose the step again.");
      return;
    }
    state.groups = answer;
    const wanted = state.followed ? answer.findIndex((group) => group.sample.id === state.followed) : state.group;
    state.group = wanted >= 0 && wanted < answer.length ? wanted : 0;
    drawGroup();
  }

  const move = (by) => goTo(Math.min(Math.max(stepIndex() + by, 0), recordedSteps().length - 1));

  function stop() {
    clearInterval(state.timer);
    state.timer = null;
    play.textContent = "Play";
  }

  function togglePlay() {
    if (state.timer) return stop();
    if (stepIndex() >= recordedSteps().length - 1) goTo(0);
    play.textContent = "Pause";
    state.timer = setInterval(() => (stepIndex() >= recordedSteps().length - 1 ? stop() : move(1)), PLAY_MILLISECONDS);
  }

  // The rollouts on screen are those of the step before while a step loads; another step may be chosen meanwhile.
  async function waitForStep() {
    for (let awaited = null; awaited !== state.loading; ) {
      awaited = state.loading;
      await Promise.allSettled([awaited]);
    }
  }

  async function toggleFollow() {
    if (!state.followed) await waitForStep();
    const group = state.groups[state.group];
    if (state.followed || !group) {
      state.followed = null;
    } else {
      const { run } = state;
      const trail = await askServer("track_question", { run, sample: group.sample.id });
      if (!Array.isArray(trail) || run !== state.run) return;
      Object.assign(state, { followed: group.sample.id, trail, isLive: false });
    }
    follow.setAttribute("aria-pressed", String(Boolean(state.followed)));
    drawBar();
  }

  async function toggleGold() {
    state.showsGold = !state.showsGold;
    gold.setAttribute("aria-pressed", String(state.showsGold));
    drawGroup();
  }

  function drawBar() {
    const index = stepIndex();
    slider.max = Math.max(0, recordedSteps().length - 1);
    slider.value = Math.max(0, index);
    slider.disabled = recordedSteps().length < 2;
    play.disabled = recordedSteps().length < 2;
    const where = state.followed ? ` · ${recordedSteps().length} records` : "";
    bar.hidden = !state.trained.length && !state.heldOut.length;
    stepLabel.textContent =
      state.step === null
        ? "no rollouts yet"
        : `step ${formatCount(state.step)}${state.isHeldOut ? ", held-out" : ""}${where}`;
    follow.textContent = state.followed ? "Stop tracking" : "Track question";
  }

  function fillPickers(group) {
    fillSelect(
      picker,
      state.groups.map((item, index) => [index, `${index + 1}. ${item.sample.question}`]),
      state.group,
    );
    const outcomes = [...new Set(group.rollouts.map((rollout) => rollout.outcome))];
    const options = ["all", "right", "wrong", ...outcomes];
    if (!options.includes(state.filter)) state.filter = "all";
    fillSelect(
      filter,
      options.map((name) => [
        name,
        { all: "All rollouts", right: "Correct", wrong: "Wrong" }[name] ??
          (name === "ok" ? "Ended: complete" : `Ended: ${name}`),
      ]),
      state.filter,
    );
  }

  const passes = (rollout) =>
    state.filter === "all" ||
    (state.filter === "right" && rollout.score === 1) ||
    (state.filter === "wrong" && rollout.score === 0) ||
    state.filter === rollout.outcome;

  async function drawGroup(problem = "") {
    state.problem = problem;
    const group = state.groups[state.group];
    if (!group) {
      const [title, text] = none();
      state.shownNone = `${title}\n${text}`;
      stage.replaceChildren();
      cards.replaceChildren(
        build("div", { class: "hs-rollout-viewer-empty" }, [
          build("strong", { text: title }),
          text ? build("p", { class: "hs-muted", text }) : null,
        ]),
      );
      fillSelect(picker, [], "");
      return;
    }
    fillPickers(group);
    drawStage(group);
    cards.replaceChildren(
      ...group.rollouts
        .map((rollout, index) => [rollout, index])
        .filter(([rollout]) => passes(rollout))
        .map(([rollout, index]) => card(rollout, index, group)),
    );
    if (!cards.childElementCount)
      cards.append(build("p", { class: "hs-muted", text: "No rollout matches the filter." }));
    if (state.showsGold) {
      const boxes = await askServer("gold_boxes", { run: state.run, sample: group.sample.id });
      if (state.groups[state.group] === group && Array.isArray(boxes)) drawGold(boxes);
    }
  }

  // Reuse the nodes of an image while only its boxes change, so that box moves are animated.
  function drawStage(group) {
    const [width, height] = group.wh;
    const key = `${group.sample.id} ${group.overview}`;
    let svg = stage.querySelector("svg");
    if (stage.dataset.key !== key || !svg) {
      stage.dataset.key = key;
      svg = build(
        "svg:svg",
        { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Overview with the boxes of every rollout" },
        [
          group.overview
            ? build("svg:image", { href: addressOf(group.overview), width, height, preserveAspectRatio: "none" })
            : build("svg:rect", { class: "hs-no-image", width, height }),
          build("svg:g", { class: "hs-boxes" }),
          build("svg:g", { class: "hs-gold" }),
        ],
      );
      stage.replaceChildren(svg, build("div", { class: "hs-rollout-viewer-question" }));
    }
    stage.querySelector(".hs-gold").replaceChildren();
    const layer = stage.querySelector(".hs-boxes");
    const wanted = new Map();
    group.rollouts.forEach((rollout, index) =>
      rollout.boxes.forEach((box, place) => passes(rollout) && wanted.set(`${index}.${place}`, [rollout, index, box])),
    );
    for (const node of [...layer.children]) if (!wanted.has(node.dataset.key)) node.remove();
    for (const [name, [rollout, index, [left, top, right, bottom]]] of wanted) {
      let node = [...layer.children].find((child) => child.dataset.key === name);
      if (!node) {
        node = build("svg:rect", {
          stroke: colorOf(index),
          onmouseenter: () => highlight(index),
          onmouseleave: () => highlight(null),
        });
        node.dataset.key = name;
        node.dataset.rollout = index;
        layer.append(node);
      }
      node.classList.toggle("hs-box-wrong", rollout.score === 0);
      node.style.cssText = `x:${left}px;y:${top}px;width:${right - left}px;height:${bottom - top}px`;
    }
    const { question, choices, answer, category } = group.sample;
    stage.querySelector(".hs-rollout-viewer-question").replaceChildren(
      ...present([
        build("p", { text: question }),
        choices.length
          ? build("ul", {}, choiceItems(choices, answer, "hs-correct"))
          : build("p", { class: "hs-muted", text: `answer: ${answer ?? "unknown"}` }),
        build("p", {
          class: "hs-muted",
          text: [group.sample.id, category, group.protocol.replaceAll("_", " "), formatSize(width, height)]
            .filter(Boolean)
            .join(" · "),
        }),
      ]),
    );
  }

  function drawGold(boxes) {
    const layer = stage.querySelector(".hs-gold");
    layer.replaceChildren(
      ...boxes.map(([left, top, right, bottom]) =>
        build("svg:rect", { x: left, y: top, width: right - left, height: bottom - top }),
      ),
    );
    const question = stage.querySelector(".hs-rollout-viewer-question");
    question.querySelector(".hs-gold-note")?.remove();
    question.append(
      build("p", {
        class: "hs-gold-note",
        text: boxes.length
          ? "Dashed: gold box (evaluation only, never used in training). Dotted: boxes of wrong answers."
          : "No gold boxes: the dataset has none, or is not read here.",
      }),
    );
  }

  function highlight(index) {
    host.querySelectorAll("[data-rollout]").forEach((node) => {
      node.classList.toggle("hs-dimmed", index !== null && node.dataset.rollout !== String(index));
    });
  }

  // Show JSON on one line, raw output on click; show other output unchanged.
  function pointing(text) {
    const line = inOneLine(text);
    const raw = build("pre", { tabindex: 0, text });
    return line === null
      ? raw
      : build("details", { class: "hs-grounding-output" }, [
          build("summary", { title: "Show raw output", text: line }),
          raw,
        ]);
  }

  // One turn: only the answer (direct), or only the grounding turn (no box, so no answer).
  const describeTokens = ({ tokens, grounding }) =>
    tokens.length === 2
      ? `${tokens[0]} grounding + ${tokens[1]} answer tokens`
      : `${tokens.join(" + ")} ${grounding === null ? "answer" : "grounding"} tokens`;

  function card(rollout, index, group) {
    const verdict = rollout.score === 1 ? "right" : rollout.score === 0 ? "wrong" : "not scored";
    const verdictText = verdict === "right" ? "correct" : verdict;
    const credit = rollout.credit;
    const node = build(
      "article",
      {
        class: `hs-rollout hs-rollout-${verdict.replace(" ", "-")}`,
        tabindex: 0,
        style: `--rollout:${colorOf(index)}`,
        onmouseenter: () => highlight(index),
        onmouseleave: () => highlight(null),
        onfocus: () => highlight(index),
        onblur: () => highlight(null),
        "aria-label": `Rollout ${index + 1}: ${verdictText}`,
      },
      [
        build("header", {}, [
          build("b", { text: group.rollouts.length > 1 ? index + 1 : "•" }),
          build("span", { class: "hs-verdict", text: verdictText }),
          rollout.outcome === "ok" ? null : build("span", { class: "hs-tag", text: rollout.outcome.replace("_", " ") }),
          credit
            ? build("span", { class: "hs-numbers" }, [
                build("span", { title: "Advantage, Eq. 1", text: `A ${formatSigned(credit.advantage)}` }),
                build("span", { title: "Policy weight, Eq. 5", text: `μ₁ ${credit.policy_weight.toFixed(2)}` }),
                build("span", { title: "KL weight, Eq. 6", text: `μ₂ ${formatNumber(credit.kl_weight)}` }),
              ])
            : null,
        ]),
        build(
          "div",
          { class: "hs-rollout-crops" },
          rollout.images.length
            ? rollout.images.map((name) =>
                name
                  ? build("img", { src: addressOf(name), alt: "Crop", loading: "lazy" })
                  : build("span", { class: "hs-muted", text: "image not saved" }),
              )
            : [
                build("span", {
                  class: "hs-muted",
                  text: rollout.error || (group.protocol === "direct" ? "answered from the full image" : "no crop"),
                }),
              ],
        ),
        build("p", { class: "hs-answer-text" }, [
          build("span", {
            class: "hs-muted",
            text: group.protocol === "direct" && rollout.images.length ? "answer from the full image: " : "answer: ",
          }),
          build("span", { text: rollout.answer ?? "no answer" }),
        ]),
        rollout.grounding === null ? null : pointing(rollout.grounding),
        build("footer", {
          class: "hs-muted",
          text:
            `${rollout.extracted ? `parsed: ${rollout.extracted} (rule: ${rollout.rule})` : "no answer parsed"} · ` +
            `${describeTokens(rollout)} · ${formatCount(rollout.visual_tokens)} visual tokens`,
        }),
      ],
    );
    node.dataset.rollout = index;
    return node;
  }

  drawBar();
  drawGroup();
  return { reset, setMarks, refresh };
}
