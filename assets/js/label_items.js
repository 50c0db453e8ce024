// Items of a project on the Label tab: filter, list, start of the review, bulk accept. Uses the scope of label_page.js.
const BULK_POLL_MILLISECONDS = 500;
let shownList = { offset: 0, count: 0, acceptable: { labels: 0, unscored: 0, empty: 0, auto_accepted: 0 } };

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

const openButton = (row) =>
  build("button", { type: "button", class: "hs-link", text: row.question, onclick: () => openItem(row.id) });

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
            build("td", {}, [openButton(row)]),
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
