// Full-screen review of one item: image with editable boxes, crops, question, answers, verification. Keyboard
// shortcuts.
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const MIN_DRAG_PX = 4; // screen pixels; a shorter drag is a click
const BULK_UNDO_POLL_MILLISECONDS = 500;
const CHECK_AFTER_MILLISECONDS = 250; // after the last edit, so that a drag verifies once
const KEYS = [
  ["A", "accept the boxes as shown"],
  ["R", "reject: no good box"],
  ["B", "bad question"],
  ["E", "edit the first box"],
  ["S", "skip: do not show me this label again, unless a new proposal changes it"],
  ["N", "next: come back to it at the end"],
  ["U", "undo (Ctrl+Z): box edits first, then decisions"],
  ["Y", "redo (Ctrl+Shift+Z)"],
  ["Drag", "draw a box; with Shift: pan the image"],
  ["1–9", "select a box"],
  ["Arrows", "move the box by 1 px, with Shift by 10 px"],
  ["Alt+Arrows", "move its right and bottom edges"],
  ["Delete", "delete the box"],
  ["Wheel, + −", "zoom"],
  ["F", "fit the image"],
  ["G", "zoom to the box"],
  ["Escape", "deselect, then close"],
  ["?", "show shortcuts"],
];
const REASONS = {
  disagreement: "crops give a wrong answer, the full image the right one",
  no_box: "no rollout predicted a box",
  low_agreement: "few correct rollouts, or their regions differ",
  caution: "unusual size or position",
  unsure: "not auto-accepted",
  audit: "random audit of an auto-accepted label",
};
const CAUTION_TAGS = {
  touches_border: "at the border",
  covers_half: "over half",
  scattered: "scattered",
  no_box: "no box",
};
const CAUTIONS = {
  touches_border: "touches the border",
  covers_half: "covers over half of the image",
  scattered: "rollouts predict different regions, or none",
  no_box: "no rollout predicted a box",
};

// host: parent element. ask(name, request): calls the server. onClose: callback.
function createReview(host, ask, onClose) {
  const title = build("strong", { class: "hs-review-question" });
  const about = build("span", { class: "hs-muted" });
  const badge = build("span", { class: "hs-review-badge", role: "status" });
  const facts = build("dl", { class: "hs-review-facts" });
  const chance = build("ul", { class: "hs-review-chance", "aria-label": "Chance level" });
  const crops = build("div", { class: "hs-review-crops" });
  const options = build("ul", { class: "hs-review-options" });
  const message = build("p", { class: "hs-review-message", role: "status" });
  const counter = build("span", { class: "hs-muted hs-review-count" });
  const zoomLabel = build("output", { class: "hs-zoom", "aria-label": "Zoom factor" });
  const shapes = build("svg:g");
  const stage = build(
    "div",
    { class: "hs-canvas", tabindex: "0", role: "application", "aria-label": "Image with editable boxes" },
    [
      build("svg:svg", { preserveAspectRatio: "xMidYMid meet" }, [
        build("svg:image", { preserveAspectRatio: "none", x: "0", y: "0" }),
        shapes,
      ]),
    ],
  );
  const finished = build("div", { class: "hs-review-finished" }, [
    build("p", { text: "Queue empty. Your decisions are saved." }),
    build("button", { type: "button", class: "hs-primary", onclick: close, text: "Close" }),
  ]);
  const help = build(
    "div",
    { class: "hs-review-help", role: "dialog", "aria-label": "Keyboard shortcuts", hidden: true },
    [
      buildTable(
        [],
        KEYS.map(([key, text]) => [build("th", { scope: "row" }, [build("kbd", { text: key })]), text]),
      ),
    ],
  );
  // Accepting without a box means "nothing here", so it has to be confirmed.
  const empty = build(
    "div",
    { class: "hs-review-empty", role: "alertdialog", "aria-label": "Accept without a box", hidden: true },
    [
      build("p", { text: "Accept without a box? This means that no region answers the question." }),
      build("div", {}, [
        build("button", { type: "button", class: "hs-primary", onclick: () => decide("accept", true) }, [
          build("span", { text: "Accept" }),
          build("kbd", { text: "A" }),
        ]),
        build("button", { type: "button", onclick: () => closeEmpty() }, [
          build("span", { text: "Cancel" }),
          build("kbd", { text: "Esc" }),
        ]),
      ]),
    ],
  );
  const command = (label, key, act, className = "") =>
    build("button", { type: "button", class: className, title: `${label} (${key})`, "data-key": key, onclick: act }, [
      build("span", { text: label }),
      build("kbd", { text: key }),
    ]);
  const bar = build("div", { class: "hs-review-commands", role: "toolbar", "aria-label": "Decide" }, [
    command("Accept", "A", () => decide("accept"), "hs-primary-command"),
    command("Reject", "R", () => decide("reject")),
    command("Bad question", "B", () => decide("bad_question")),
    command("Skip", "S", () => leave("skip")),
    command("Next", "N", () => leave("next")),
    command("Undo", "U", () => step("undo")),
    command("Redo", "Y", () => step("redo")),
    command("Shortcuts", "?", toggleHelp),
  ]);
  const root = build(
    "section",
    { class: "hs-review", role: "dialog", "aria-modal": "true", "aria-label": "Review", hidden: true },
    [
      build("header", {}, [
        title,
        about,
        build("span", { class: "hs-spacer" }),
        counter,
        zoomLabel,
        build("button", { type: "button", "aria-label": "Close", onclick: close, text: "Close" }),
      ]),
      build("div", { class: "hs-review-body" }, [
        stage,
        finished,
        build("aside", {}, [badge, message, chance, options, crops, facts]),
      ]),
      bar,
      help,
      empty,
    ],
  );
  host.append(root);
  const viewer = createImageViewer(stage, draw);
  const context = {}; // sent with every call: project, reviewer, filter
  let item = null;
  let boxes = [];
  let selected = -1;
  let drag = null;
  let past = []; // boxes before each change
  let future = [];
  let isEdited = false;
  let isBusy = false;
  let openedAt = 0;
  let checkTimer = null;
  let checks = 0;
  let isChecking = false;
  let deferred = []; // ids passed over in this session; they come last

  // Open the item with the highest review priority, or the given one.
  async function open(request, id) {
    Object.assign(context, request);
    deferred = [];
    root.hidden = false;
    root.classList.remove("hs-review-done"); // from an earlier session
    stage.focus({ preventScroll: true });
    await (id ? go("open_item", { item: id }) : go("next_item", {}));
  }

  function closeEmpty() {
    if (empty.hidden) return;
    empty.hidden = true;
    stage.focus({ preventScroll: true });
  }

  function close() {
    root.hidden = true;
    help.hidden = true;
    empty.hidden = true;
    item = null;
    viewer.show(null);
    onClose();
  }

  async function go(name, request) {
    if (isBusy) return false;
    isBusy = true;
    root.classList.add("hs-busy");
    try {
      let answer = await ask(name, { ...context, deferred, ...request });
      let summary = null;
      while (answer?.bulk) {
        // undo or redo of a bulk accept
        showMessage(`${name === "undo" ? "Undoing" : "Redoing"}: ${formatCount(answer.bulk.done)} labels…`);
        await new Promise((resolve) => setTimeout(resolve, BULK_UNDO_POLL_MILLISECONDS));
        const bulk = await ask("bulk_progress", { ...context });
        if (bulk?.error) return showMessage(bulk.error, true);
        if (bulk?.is_over) summary = `${name === "undo" ? "Undone" : "Redone"}: ${bulk.summary}`;
        answer = bulk?.is_over ? await ask("next_item", { ...context, deferred }) : { bulk };
      }
      if (answer?.error) return showMessage(answer.error, true);
      take(summary ? { ...answer, message: summary } : answer);
      return true;
    } catch {
      return showMessage("Server not responding. This decision may not be saved; earlier ones are. Try again.", true);
    } finally {
      isBusy = false;
      root.classList.remove("hs-busy");
    }
  }

  function showMessage(text, isBad = false) {
    message.textContent = text;
    message.classList.toggle("hs-bad", isBad);
    return false;
  }

  function take(answer) {
    showMessage(answer.message ?? "");
    counter.textContent =
      answer.waiting === undefined
        ? ""
        : present([
            `${formatCount(answer.waiting)} waiting`,
            answer.audits ? `${formatCount(answer.audits)} to audit` : null,
            `${formatCount(answer.done)} decided`,
          ]).join(" · ");
    item = answer.item ?? null;
    if (item && deferred.includes(item.id)) deferred = []; // all other items were passed over as well
    root.classList.toggle("hs-review-done", !item);
    boxes = item ? item.boxes.map((box) => ({ ...box })) : [];
    past = [];
    future = [];
    selected = -1;
    isEdited = false;
    root.classList.remove("hs-edited");
    for (const button of bar.querySelectorAll("button"))
      button.disabled = !item && "ARBSN".includes(button.dataset.key);
    openedAt = performance.now();
    clearTimeout(checkTimer);
    checks++;
    empty.hidden = true;
    if (!item) {
      chance.replaceChildren();
      title.textContent = "Queue empty";
      about.textContent = "";
      badge.textContent = "";
      options.replaceChildren();
      crops.replaceChildren();
      facts.replaceChildren();
      shapes.replaceChildren();
      viewer.show(null);
      finished.querySelector("button").focus(); // the focused element may have been removed with the image
      return;
    }
    if (!root.contains(document.activeElement) || document.activeElement.closest("header"))
      stage.focus({ preventScroll: true });
    title.textContent = item.question;
    // The review reason comes first: text that does not fit is cut off at the end.
    about.textContent = present([
      REASONS[item.reason] ?? item.status.replace("_", " "),
      item.name,
      formatSize(item.width, item.height),
      item.category || null,
    ]).join(" · ");
    about.title = about.textContent;
    viewer.show(servedScene(item));
    showCheck(item.check, false, item);
    showCrops(item.crops);
    options.replaceChildren(...choiceItems(item.choices, item.answer, "hs-known-answer"));
    draw();
  }

  // Show the verification of the boxes. While they are verified again, do not show the old result as current.
  function showCheck(check, isChecking, { chance: notes, is_weak: isWeak } = { chance: [], is_weak: false }) {
    const states =
      check === null || check.crops_correct === null
        ? ["unknown", check?.crops_answer ? `crop answer: ${formatAnswer(check.crops_answer)}` : "not verified"]
        : check.crops_correct
          ? [
              isWeak ? "weak" : "right",
              check.kind === "known_answer" ? "crops give the correct answer" : "crops agree with most rollouts",
            ]
          : [
              "wrong",
              check.kind === "known_answer" ? "crops give a wrong answer" : "crops disagree with most rollouts",
            ];
    badge.className = `hs-review-badge hs-badge-${isChecking ? "checking" : states[0]}`;
    badge.textContent = isChecking ? "verifying…" : states[1];
    chance.replaceChildren(...(isChecking ? [] : notes).map((text) => build("li", { text })));
    item.check = check;
    drawFacts(check);
  }

  const formatAnswer = (answer) => {
    const index = item.choices.length ? LETTERS.indexOf(answer) : -1;
    return index >= 0 && item.choices[index] !== undefined ? `(${answer}) ${item.choices[index]}` : `“${answer}”`;
  };
  const mark = (isRight) => (isRight === null || isRight === undefined ? "" : isRight ? " ✓" : " ✕");
  const whichRight = (check) =>
    check.rollouts && check.sufficiency !== null
      ? `${percent(check.sufficiency)}, ${Math.round(check.sufficiency * check.rollouts)} of ${check.rollouts}`
      : null;
  const percent = (value) => (value === null || value === undefined ? null : `${Math.round(value * 100)} %`);

  // Why the necessity is unknown.
  const whyUnknown = (check) =>
    check.full_answer === null
      ? "unknown: no answer from the full image"
      : check.masked_answer === null && !boxes.length
        ? "unknown: no region to mask"
        : check.full_correct === false
          ? "inconclusive: full-image answer is wrong"
          : "unknown";

  function drawFacts(check) {
    const rows =
      check === null
        ? []
        : [
            ["Crops alone", check.crops_answer && formatAnswer(check.crops_answer) + mark(check.crops_correct)],
            ["Full image", check.full_answer && formatAnswer(check.full_answer) + mark(check.full_correct)],
            ["Boxes masked", check.masked_answer && formatAnswer(check.masked_answer)],
            [
              "Region necessary (masking test)",
              check.necessity === null ? whyUnknown(check) : check.necessity ? "yes" : "no",
            ],
            [check.kind === "known_answer" ? "Rollouts correct" : "Rollouts agree", whichRight(check)],
            ["Rollouts with this region", percent(check.support)],
            ["Area", formatShare(check.area_share)],
            ["Warnings", check.cautions.map((name) => CAUTIONS[name]).join(", ") || null],
            ["Verified by", check.model || null],
          ];
    const isHuman = isEdited || item.status === "edited"; // scores only hold for boxes of the model
    facts.replaceChildren(
      ...[
        [
          "Score",
          isHuman ? "none (boxes edited by a person)" : [item.score_text, item.score_reason].filter(Boolean).join(": "),
        ],
        ...rows,
        ["Proposed by", item.model],
        ["Reviewer", item.reviewer || null],
        ["Note", item.note || null],
      ]
        .filter(([, value]) => value)
        .flatMap(([name, value]) => [build("dt", { text: name }), build("dd", { text: value })]),
    );
  }

  const showCrops = (found) =>
    crops.replaceChildren(
      ...found.map((crop, index) =>
        build("figure", {}, [
          build("img", { src: addressOf(crop.path), alt: `Crop ${index + 1} at native resolution` }),
          build("figcaption", { text: `${index + 1} · ${formatSize(crop.width, crop.height)}` }),
        ]),
      ),
    );

  function draw() {
    zoomLabel.textContent = item ? `${viewer.zoom().toFixed(1)}×` : "";
    if (!item) return;
    shapes.replaceChildren();
    const unit = 1 / viewer.screenPerPixel();
    boxes.forEach((box, index) => {
      const className = index === selected ? "hs-box hs-selected" : "hs-box";
      shapes.append(
        build("svg:rect", { ...frameOf(box), class: `${className} hs-box-outline` }),
        build("svg:rect", { ...frameOf(box), class: className, "data-box": index }),
      );
      drawNumber(shapes, viewer, box, index + 1, index === selected ? "hs-selected" : "");
    });
    if (boxes[selected]) {
      for (const name of HANDLES) {
        const { x, y } = handleOf(boxes[selected], name);
        shapes.append(
          build("svg:rect", {
            x: x - 5 * unit,
            y: y - 5 * unit,
            width: 10 * unit,
            height: 10 * unit,
            class: "hs-handle",
            "data-handle": name,
            style: `cursor:${name}-resize`,
          }),
        );
      }
    }
  }

  const handleOf = (box, name) => ({
    x: name.includes("w") ? box.x_min : name.includes("e") ? box.x_max : (box.x_min + box.x_max) / 2,
    y: name.includes("n") ? box.y_min : name.includes("s") ? box.y_max : (box.y_min + box.y_max) / 2,
  });

  // Round to whole pixels, clip to the image, keep at least 1 px per side.
  function tidy(box) {
    const span = (low, high, limit) => {
      const [a, b] = [Math.round(Math.min(low, high)), Math.round(Math.max(low, high))];
      const start = clamp(a, 0, limit - 1);
      return [start, clamp(b, start + 1, limit)];
    };
    const [x_min, x_max] = span(box.x_min, box.x_max, item.width);
    const [y_min, y_max] = span(box.y_min, box.y_max, item.height);
    return { ...box, x_min, x_max, y_min, y_max };
  }

  const copyBoxes = () => boxes.map((box) => ({ ...box }));

  // Replace the boxes; the change can be undone.
  function change(next, before = copyBoxes()) {
    if (JSON.stringify(next) === JSON.stringify(before)) return draw();
    past.push(before);
    future = [];
    settle(next);
  }

  function settle(next) {
    boxes = next;
    selected = Math.min(selected, boxes.length - 1);
    isEdited = JSON.stringify(boxes) !== JSON.stringify(item.boxes);
    root.classList.toggle("hs-edited", isEdited);
    draw();
    showCheck(item.check, true);
    clearTimeout(checkTimer);
    checkTimer = setTimeout(recheck, CHECK_AFTER_MILLISECONDS);
  }

  async function recheck() {
    const asked = ++checks;
    if (isChecking) {
      // one verification at a time; the newest boxes come next
      checkTimer = setTimeout(recheck, CHECK_AFTER_MILLISECONDS);
      return;
    }
    isChecking = true;
    const answer = await ask("check", { ...context, item: item.id, boxes })
      .catch(() => ({ error: "Server not responding. The boxes were not verified." }))
      .finally(() => {
        isChecking = false;
      });
    if (asked !== checks || !item) return; // changed again meanwhile
    if (!answer || answer.error) {
      showMessage(answer?.error ?? "The boxes cannot be verified.", true);
      return showCheck(null, false);
    }
    showMessage("");
    showCheck(answer.check, false, answer);
    showCrops(answer.crops);
  }

  const seconds = () => Math.min(3600, (performance.now() - openedAt) / 1000);

  function decide(decision, isConfirmed = false) {
    if (!item || isBusy) return;
    if (decision === "accept" && !boxes.length && !isConfirmed) {
      empty.hidden = false;
      return empty.querySelector("button").focus({ preventScroll: true });
    }
    const isEdit = decision === "accept" && isEdited;
    const request = {
      item: item.id,
      revision: item.revision,
      decision: isEdit ? "edit" : decision,
      seconds: seconds(),
      allow_empty: isConfirmed,
    };
    empty.hidden = true;
    if (root.contains(document.activeElement) && document.activeElement.closest(".hs-review-empty"))
      stage.focus({ preventScroll: true });
    go("decide", isEdit ? { ...request, boxes } : request);
  }

  function leave(name) {
    if (!item) return;
    if (name === "next") deferred = [...deferred, item.id].slice(-1000);
    go(name === "skip" ? "skip" : "next_item", { item: item.id, seconds: seconds() });
  }

  function step(name) {
    if (item && name === "undo" && past.length) {
      future.push(copyBoxes());
      return settle(past.pop());
    }
    if (item && name === "redo" && future.length) {
      past.push(copyBoxes());
      return settle(future.pop());
    }
    return go(name, {});
  }

  function toggleHelp() {
    help.hidden = !help.hidden;
  }

  function nudge(columns, rows, event) {
    const size = event.shiftKey ? 10 : 1;
    const [dx, dy] = [columns * size, rows * size];
    change(
      boxes.map((box, index) => {
        if (index !== selected) return box;
        if (event.altKey)
          return tidy({
            ...box,
            x_max: Math.max(box.x_min + 1, box.x_max + dx),
            y_max: Math.max(box.y_min + 1, box.y_max + dy),
          });
        return moved(box, dx, dy);
      }),
    );
  }

  function moved(box, dx, dy) {
    const [width, height] = [box.x_max - box.x_min, box.y_max - box.y_min];
    const x_min = clamp(Math.round(box.x_min + dx), 0, item.width - width);
    const y_min = clamp(Math.round(box.y_min + dy), 0, item.height - height);
    return tidy({ ...box, x_min, y_min, x_max: x_min + width, y_max: y_min + height });
  }

  function remove() {
    if (selected < 0) return;
    change(boxes.filter((_, index) => index !== selected));
  }

  function select(index) {
    selected = index;
    draw();
  }

  function escape() {
    if (!empty.hidden) closeEmpty();
    else if (!help.hidden) help.hidden = true;
    else if (selected >= 0) select(-1);
    else close();
  }

  const edit = () => {
    if (!boxes.length) return;
    select(Math.max(0, selected));
    viewer.showArea(boxes[selected], 3);
    stage.focus({ preventScroll: true });
  };

  const commands = {
    a: () => decide("accept"),
    r: () => decide("reject"),
    b: () => decide("bad_question"),
    e: edit,
    s: () => leave("skip"),
    n: () => leave("next"),
    u: () => step("undo"),
    y: () => step("redo"),
    f: viewer.fit,
    g: edit,
    "?": toggleHelp,
    Escape: escape,
    Delete: remove,
    Backspace: remove,
    "+": () => viewer.zoomAt(1.4),
    "=": () => viewer.zoomAt(1.4),
    "-": () => viewer.zoomAt(1 / 1.4),
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  root.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input, select, textarea")) return;
    if (!empty.hidden) return answerEmpty(event);
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Tab") return keepFocus(event);
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y"))
      step(key === "y" || event.shiftKey ? "redo" : "undo");
    else if (event.ctrlKey || event.metaKey) return;
    else if (arrows[key] && item)
      selected >= 0 ? nudge(...arrows[key], event) : event.altKey || viewer.pan(...arrows[key]);
    else if (event.altKey) return;
    else if (/^[1-9]$/.test(key)) boxes[Number(key) - 1] && select(Number(key) - 1);
    else if (commands[key] && (item || ["u", "y", "?", "Escape"].includes(key))) commands[key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // Enter or A accepts, Escape cancels; other keys are ignored.
  function answerEmpty(event) {
    if (event.key === "Tab") return keepFocus(event);
    const isOnButton = event.key === "Enter" && event.target.closest("button"); // the button handles it
    if (isOnButton || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!event.repeat && (event.key === "Enter" || event.key.toLowerCase() === "a")) decide("accept", true);
    else if (event.key === "Escape") closeEmpty();
    event.preventDefault();
    event.stopPropagation();
  }

  // Keep the Tab key inside the dialog.
  function keepFocus(event) {
    const stops = (
      empty.hidden ? [stage, ...root.querySelectorAll("button")] : [...empty.querySelectorAll("button")]
    ).filter((node) => node.offsetParent !== null);
    const [first, last] = [stops[0], stops.at(-1)];
    if (event.shiftKey && document.activeElement === first) last.focus();
    else if (!event.shiftKey && document.activeElement === last) first.focus();
    else return;
    event.preventDefault();
  }

  stage.addEventListener(
    "wheel",
    (event) => {
      if (!item) return;
      event.preventDefault();
      viewer.zoomAt(Math.exp(-event.deltaY * 0.0015), viewer.toImage(event));
    },
    { passive: false },
  );

  stage.addEventListener("pointerdown", (event) => {
    if (!item || event.button > 1) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    const at = viewer.toImage(event);
    const { box, handle } = event.target.dataset;
    const start = { x: event.clientX, y: event.clientY, at, before: copyBoxes(), view: viewer.view() };
    if (event.shiftKey || event.button === 1) drag = { ...start, kind: "pan" };
    else if (handle) drag = { ...start, kind: "resize", handle, index: selected };
    else if (box !== undefined) drag = { ...start, kind: "move", index: Number(box) };
    else drag = { ...start, kind: "draw" };
    if (drag.kind === "move") select(drag.index);
  });

  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.isMoved ||= Math.hypot(dx, dy) >= MIN_DRAG_PX;
    if (!drag.isMoved) return;
    const at = viewer.toImage(event);
    if (drag.kind === "pan") {
      const unit = 1 / viewer.screenPerPixel();
      return viewer.setView({ ...drag.view, x: drag.view.x - dx * unit, y: drag.view.y - dy * unit });
    }
    const old = drag.before[drag.index];
    if (drag.kind === "draw") {
      boxes = [
        ...drag.before,
        tidy({ x_min: drag.at.x, y_min: drag.at.y, x_max: at.x, y_max: at.y, label: drag.before[0]?.label ?? "" }),
      ];
      selected = boxes.length - 1;
    } else if (drag.kind === "move") {
      boxes = drag.before.map((box, index) =>
        index === drag.index ? moved(box, at.x - drag.at.x, at.y - drag.at.y) : box,
      );
    } else {
      const next = { ...old };
      if (drag.handle.includes("w")) next.x_min = at.x;
      if (drag.handle.includes("e")) next.x_max = at.x;
      if (drag.handle.includes("n")) next.y_min = at.y;
      if (drag.handle.includes("s")) next.y_max = at.y;
      boxes = drag.before.map((box, index) => (index === drag.index ? tidy(next) : box));
    }
    return draw();
  });

  function endDrag() {
    if (!drag) return;
    const done = drag;
    drag = null;
    if (done.kind === "pan") return;
    if (done.isMoved) change(copyBoxes(), done.before);
    else if (done.kind === "draw") select(-1);
  }
  stage.addEventListener("pointerup", endDrag);
  stage.addEventListener("pointercancel", () => {
    if (drag && drag.kind !== "pan") boxes = drag.before;
    drag = null;
    draw();
  });

  return { open, isOpen: () => !root.hidden };
}
