// Failure browser: questions of an evaluation, worst first, each with its image, boxes and answers.
const PAGE_ROWS = 50;
const TYPING_MILLISECONDS = 250;
const FAILURES_AGAIN_MILLISECONDS = 10000;
const VERDICT_CLASSES = {
  "correct answer, wrong or no box": "partial",
  "wrong answer, correct box": "wrong",
  "wrong answer, wrong box": "wrong",
  "no valid box": "wrong",
  "wrong answer": "wrong",
  unscored: "none",
  "correct answer": "right",
  "correct answer, correct box": "right",
};
const OUTCOMES = {
  no_box: "No region predicted.",
  bad_box: "Invalid coordinates: no predicted box lies on the image.",
  truncated: "Output truncated by the token limit.",
  error: "This question failed to run.",
};

// call(name, request): asks the server. titleOf(protocol): for people.
function createFailureBrowser(page, call, titleOf, showMessage) {
  const find = (name) => page.querySelector(name);
  const list = find(".hs-ev-questions");
  const stage = find(".hs-ev-scene .hs-canvas");
  const shapes = stage.querySelector("svg g");
  const viewer = createImageViewer(stage, draw);
  let evaluations = [];
  let rows = [];
  let count = 0;
  let offset = 0;
  let selected = null; // id of the question that is shown
  let shown = null; // the question itself
  let loadedKey = "";
  let loadedAt = 0;
  let listings = 0;
  let openings = 0;
  let typing = null;

  const run = () => evaluations.find((row) => row.id === find(".hs-ev-run").value);
  const filter = () => ({
    run: run().id,
    protocol: find(".hs-ev-protocol").value,
    verdict: find(".hs-ev-verdict").value || null,
    category: find(".hs-ev-category").value,
    text: find(".hs-ev-text").value,
    offset,
  });

  // Show the selected evaluations; called with every poll.
  function show(found) {
    evaluations = found.filter((row) => row.protocols.length);
    const names = evaluations.map((row) => [row.id, `${row.title} · ${row.benchmark}`]);
    const kept = evaluations.some((row) => row.id === find(".hs-ev-run").value)
      ? find(".hs-ev-run").value
      : (names[0]?.[0] ?? "");
    fillSelect(find(".hs-ev-run"), names, kept);
    page.classList.toggle("hs-ev-no-choice", !evaluations.length);
    if (!evaluations.length) return clear("Select an evaluation above to see its questions.");
    const now = run();
    const key = `${now.id} ${now.step} ${now.state}`;
    if (key === loadedKey) return;
    const isOther = loadedKey.split(" ")[0] !== now.id;
    if (isOther) choose();
    else if (performance.now() - loadedAt > FAILURES_AGAIN_MILLISECONDS || now.state !== "running") load();
  }

  function choose() {
    const protocols = run().protocols;
    const before = find(".hs-ev-protocol").value;
    fillSelect(
      find(".hs-ev-protocol"),
      protocols.map((name) => [name, titleOf(name)]),
      protocols.includes(before) ? before : protocols[0],
    );
    fillSelect(find(".hs-ev-verdict"), [["", "All outcomes"]], "");
    fillSelect(find(".hs-ev-category"), [["", "All categories"]], "");
    find(".hs-ev-text").value = "";
    offset = 0;
    selected = null;
    load();
  }

  async function load(wanted) {
    const now = run();
    loadedKey = `${now.id} ${now.step} ${now.state}`;
    loadedAt = performance.now();
    const number = ++listings;
    const answer = await call("failures", filter());
    if (number !== listings) return; // a newer filter has been asked for since
    if (!answer?.rows) return clear("No results yet.");
    ({ rows, count } = answer);
    const verdict = find(".hs-ev-verdict").value;
    const verdicts = Object.entries(answer.verdicts).map(([name, total]) => [name, `${name} (${formatCount(total)})`]);
    const all = Object.values(answer.verdicts).reduce((sum, total) => sum + total, 0);
    if (verdict && !answer.verdicts[verdict]) verdicts.push([verdict, `${verdict} (0)`]);
    fillSelect(find(".hs-ev-verdict"), [["", `All outcomes (${formatCount(all)})`], ...verdicts], verdict);
    fillSelect(
      find(".hs-ev-category"),
      [["", "All categories"], ...answer.categories.map((name) => [name, name])],
      find(".hs-ev-category").value,
    );
    const place =
      wanted === "last"
        ? rows.length - 1
        : Math.max(
            0,
            rows.findIndex((row) => row.id === selected),
          );
    drawList();
    if (rows.length) select(place);
    else clear(all ? "No matching questions." : "No results yet.");
  }

  function drawList() {
    list.replaceChildren(
      ...rows.map((row, index) =>
        build(
          "div",
          {
            role: "option",
            id: `hs-ev-option-${index}`,
            "aria-selected": row.id === selected,
            class: "hs-ev-item",
            onclick: () => {
              select(index);
              list.focus({ preventScroll: true });
            },
          },
          [
            build("span", { class: `hs-ev-pill hs-ev-${VERDICT_CLASSES[row.verdict] ?? "none"}`, text: row.verdict }),
            build("span", { class: "hs-ev-question-text", text: row.question || row.id }),
            build("span", {
              class: "hs-muted",
              text: [
                row.category,
                row.extracted !== null || row.answer !== null
                  ? `predicted ${row.extracted ?? "–"}, expected ${row.answer ?? "–"}`
                  : "",
              ]
                .filter(Boolean)
                .join(" · "),
            }),
          ],
        ),
      ),
    );
    find(".hs-ev-range").textContent = count
      ? `${formatCount(offset + 1)}–${formatCount(offset + rows.length)} of ${formatCount(count)}`
      : "none";
    find(".hs-ev-previous").disabled = offset === 0;
    find(".hs-ev-next").disabled = offset + rows.length >= count;
  }

  function clear(text) {
    rows = [];
    count = 0;
    shown = null;
    selected = null;
    openings++;
    if (!evaluations.length) loadedKey = "";
    drawList();
    list.replaceChildren(build("p", { class: "hs-ev-placeholder", text }));
    list.removeAttribute("aria-activedescendant");
    find(".hs-ev-detail").hidden = true;
    viewer.show(null);
  }

  function select(index) {
    const row = rows[index];
    if (!row) return;
    const isSame = row.id === selected && shown?.id === row.id;
    selected = row.id;
    [...list.children].forEach((node, place) => node.setAttribute("aria-selected", place === index));
    list.setAttribute("aria-activedescendant", `hs-ev-option-${index}`);
    const node = list.children[index];
    // Only the list scrolls: the page stays where it is.
    if (node.offsetTop < list.scrollTop) list.scrollTop = node.offsetTop;
    else if (node.offsetTop + node.offsetHeight > list.scrollTop + list.clientHeight)
      list.scrollTop = node.offsetTop + node.offsetHeight - list.clientHeight;
    if (!isSame) open(row.id);
  }

  async function open(id) {
    const number = ++openings;
    const of = run().id;
    find(".hs-ev-detail").classList.add("hs-busy");
    const answer = await call("failure", { run: of, sample: id });
    if (number !== openings) return;
    find(".hs-ev-detail").classList.remove("hs-busy");
    if (!answer?.answers) return;
    shown = { ...answer, run: of };
    drawOne();
  }

  function drawOne() {
    const { image: scene, boxes, gold } = shown;
    find(".hs-ev-detail").hidden = false;
    find(".hs-ev-question").textContent = shown.question || shown.id;
    find(".hs-ev-facts").textContent = [
      shown.id,
      shown.category,
      scene ? `${scene.name}, ${formatSize(scene.width, scene.height)}` : "",
    ]
      .filter(Boolean)
      .join(" · ");
    const problem = shown.error || shown.problem;
    find(".hs-ev-problem").textContent = problem;
    find(".hs-ev-problem").hidden = !problem;
    find(".hs-ev-ask").disabled = !scene;
    find(".hs-ev-scene").hidden = !scene;
    viewer.show(scene ? servedScene(scene) : null);
    stage.setAttribute("aria-label", `Image with ${boxes.length} predicted and ${gold.length} gold boxes`);
    const found = shown.matches.filter((match) => match.is_found).length;
    const iou = shown.matches.length
      ? shown.matches.reduce((sum, match) => sum + match.iou, 0) / shown.matches.length
      : null;
    find(".hs-ev-legend").replaceChildren(
      ...present([
        key(
          "hs-ev-legend-box",
          boxes.length
            ? `Predicted: ${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}, ` +
                `${formatShare(shown.area_share)} of the image`
            : shown.has_grounding_turn
              ? "No valid box predicted"
              : "No grounding turn",
        ),
        gold.length
          ? key(
              "hs-ev-legend-gold",
              "Gold, evaluation only: " +
                (shown.matches.length
                  ? `${found} of ${gold.length} found (IoG > 0.3), mean IoU ${iou.toFixed(2)}`
                  : gold.length),
            )
          : build("span", { class: "hs-muted", text: "No gold boxes in this benchmark" }),
      ]),
    );
    find(".hs-ev-options").replaceChildren(...choiceItems(shown.choices, shown.answer, "hs-known-answer"));
    find(".hs-ev-answers").replaceChildren(...shown.answers.map(drawAnswer));
  }

  const key = (name, text) => build("span", {}, [build("i", { class: name }), build("span", { text })]);
  const verdict = (score) => (score.value === null ? "unscored" : score.value > 0 ? "correct" : "wrong");

  function drawAnswer(answer) {
    const { score, official } = answer;
    return build(
      "article",
      { class: "hs-card", "aria-label": answer.title },
      present([
        build("header", {}, [
          build("h3", { text: answer.title }),
          build("span", { class: `hs-verdict hs-${verdict(score)}`, text: verdict(score) }),
        ]),
        build("p", { class: "hs-answer" }, [
          score.extracted === null
            ? build("span", { class: "hs-none", text: "no answer parsed" })
            : build("span", { text: formatAnswer(score.extracted) }),
        ]),
        OUTCOMES[answer.outcome] || answer.used_fallback
          ? build("p", {
              class: "hs-note",
              text: [OUTCOMES[answer.outcome], answer.used_fallback ? "Answered from the full image instead." : ""]
                .filter(Boolean)
                .join(" "),
            })
          : null,
        build("pre", { class: "hs-ev-raw-output", tabindex: 0, text: answer.text || "(no answer turn)" }),
        build("dl", { class: "hs-ev-scores" }, [
          build("dt", { text: "Strict extractor" }),
          build("dd", { text: `${score.extracted ?? "–"} (rule: ${score.rule})` }),
          ...(official
            ? [
                build("dt", { text: "Benchmark extractor" }),
                build("dd", { text: `${official.extracted ?? "–"} (rule: ${official.rule}), ${verdict(official)}` }),
              ]
            : []),
          build("dt", { text: "Outcome" }),
          build("dd", { text: answer.verdict }),
          build("dt", { text: "Cost" }),
          build("dd", {
            text:
              `${formatCount(answer.visual_tokens)} visual tokens, ` +
              `${formatCount(answer.completion_tokens)} output tokens, ${formatSeconds(answer.seconds)}`,
          }),
        ]),
      ]),
    );
  }

  function formatAnswer(answer) {
    const index = shown.choices.length ? LETTERS.indexOf(answer) : -1;
    return index >= 0 && shown.choices[index] !== undefined ? `${answer}  ${shown.choices[index]}` : answer;
  }

  function draw() {
    if (!shown?.image) return;
    shapes.replaceChildren();
    for (const box of shown.gold)
      shapes.append(
        build("svg:rect", { ...frameOf(box), class: "hs-ev-gold hs-box-outline" }),
        build("svg:rect", { ...frameOf(box), class: "hs-ev-gold" }),
      );
    for (const box of shown.boxes)
      shapes.append(
        build("svg:rect", { ...frameOf(box), class: "hs-box hs-box-outline" }),
        build("svg:rect", { ...frameOf(box), class: "hs-box" }),
      );
    shown.boxes.forEach((box, index) => drawNumber(shapes, viewer, box, index + 1));
  }

  function move(way) {
    const next = rows.findIndex((row) => row.id === selected) + way;
    if (rows[next]) select(next);
    else if (way > 0 && offset + rows.length < count) turn(offset + PAGE_ROWS);
    else if (way < 0 && offset > 0) turn(offset - PAGE_ROWS, "last");
  }

  function turn(to, wanted) {
    offset = Math.max(0, to);
    selected = null;
    list.scrollTop = 0;
    load(wanted);
  }

  list.addEventListener("keydown", (event) => {
    if (hasModifier(event)) return;
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (steps[event.key]) move(steps[event.key]);
    else if (event.key === "Home" && rows.length) select(0);
    else if (event.key === "End" && rows.length) select(rows.length - 1);
    else if (event.key === "Enter" && shown?.image) find(".hs-ev-ask").click();
    else return;
    event.preventDefault();
  });
  addViewerControls(stage, viewer, {
    isOn: () => Boolean(shown?.image),
    onKey: (digit) => {
      const box = /^[1-9]$/.test(digit) ? shown.boxes[Number(digit) - 1] : undefined;
      if (box) viewer.showArea(box);
      return Boolean(box);
    },
  });
  find(".hs-ev-run").addEventListener("change", choose);
  for (const name of [".hs-ev-protocol", ".hs-ev-verdict", ".hs-ev-category"])
    find(name).addEventListener("change", () => turn(0));
  find(".hs-ev-text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => turn(0), TYPING_MILLISECONDS);
  });
  find(".hs-ev-previous").addEventListener("click", () => turn(offset - PAGE_ROWS));
  find(".hs-ev-next").addEventListener("click", () => turn(offset + PAGE_ROWS));
  find(".hs-ev-ask").addEventListener("click", () => {
    if (!shown) return;
    showMessage("");
    trigger("open_ask", { run: shown.run, sample: shown.id });
  });
  return { show };
}
