// The Import panel of the Label page: look into a source, map its columns, bring it in, and say what became of it.
const QUESTIONS_OF_KINDS = {
  images: ["Question, with {name} or {folder} of each image filled in", "Where is the {name}?"],
  auto: ["Question, with {name} and {folder} of an image, or {label} of a box, filled in", "Where is the key region?"],
};
const QUESTION_OF_LABELS = ["Question, with the {label} of each box filled in", "Where is the {label}?"];
const COLUMN_TITLES = { image: "Picture", question: "Question", answer: "Answer", choices: "Options", id: "Id", category: "Category" };

// makeImport(page, { call, say, upload, isVisitor, onBegin }): call(name, request, button) asks the server and shows its
// complaints; upload(file) gives the file's path there; onBegin runs when an import has begun.
function createImportPanel(page, { call, showMessage, upload, isVisitor, onBegin }) {
  const find = (name) => page.querySelector(name);
  let preview = null; // what a look inside has found
  let isGuessed = false; // whether the kind is what a look inside made of the source
  let importState = null; // the last import of the project, as the server tells it
  let dismissed = "null"; // what it was when another source was looked at: it is not told any more
  let earlierInvalidRows = [];
  let looks = 0; // an answer to an earlier look comes too late
  let isAsked = false; // whether the last import has asked for a question, and been led to it

  function draw(found) {
    importState = found;
    const shown = JSON.stringify(importState) === dismissed ? null : importState;
    const line = find(".hs-import-message");
    line.classList.toggle("hs-bad", Boolean(shown?.error));
    line.textContent = !shown ? "" : shown.error || shown.message || `Importing ${formatCount(shown.done)} of ${shown.total ? formatCount(shown.total) : "…"}`;
    const needsQuestion = /^(expected a question|No question|The question )/.test(shown?.error ?? "");
    if (needsQuestion && !isAsked) askForQuestion();
    isAsked = needsQuestion;
    const rows = shown ? shown.invalid_rows : earlierInvalidRows;
    find(".hs-invalid-rows").replaceChildren(...(rows.length
      ? [build("table", {}, [build("thead", {}, [build("tr", {}, [build("th", { scope: "col", text: "Row" }), build("th", { scope: "col", text: "Why it was left out" })])]),
        build("tbody", {}, rows.map(([place, reason]) => build("tr", {}, [build("td", { text: place }), build("td", { text: reason })])))])]
      : []));
  }

  async function previewSource() {
    forgetImport();
    const number = looks;
    const answer = await call("preview_source", { source: find(".hs-source").value, image_root: imageRoot() }, find(".hs-preview-button"));
    if (!answer || number !== looks) return;
    preview = answer;
    find(".hs-kind").value = answer.kind;
    isGuessed = true;
    drawPreview();
  }

  // The images of another folder or column; the columns stay as they were mapped.
  async function countImages() {
    if (!preview?.names) return;
    const number = ++looks;
    const image = find("[data-field=image]")?.value ?? "";
    const answer = await call("preview_source", { source: find(".hs-source").value, image_root: imageRoot(), image });
    if (!answer?.names || number !== looks) return;
    Object.assign(preview, { found: answer.found, missing: answer.missing });
    find(".hs-preview > p").replaceWith(previewLine());
  }

  const previewLine = () => build("p", { class: preview.missing ? "hs-bad" : "hs-muted", text: describePreview() });

  function forgetPreview() {
    looks += 1;
    preview = null;
    find(".hs-preview").replaceChildren();
    showFields();
  }

  function forgetImport() {
    forgetPreview();
    dismissed = JSON.stringify(importState);
    draw(importState);
  }

  // Of what a source may need more, the fields that this one can use.
  function showFields() {
    const isImageFolder = find(".hs-kind").value === "images";
    for (const field of page.querySelectorAll(".hs-question-field")) field.hidden = Boolean(preview?.names) && !isImageFolder;
    find(".hs-root-field").hidden = isVisitor() || isImageFolder;
    const [title, example] = QUESTIONS_OF_KINDS[find(".hs-kind").value] ?? QUESTION_OF_LABELS;
    find(".hs-question-title").textContent = title;
    find(".hs-question").placeholder = example;
  }

  const imageRoot = () => (find(".hs-root-field").hidden ? "" : find(".hs-image-root").value);
  const asksOneQuestion = () => find(".hs-kind").value === "images" && !find(".hs-question").value.trim();

  function askForQuestion() {
    find(".hs-import-options").open = true;
    find(".hs-question").focus();
  }

  // What a look inside has found, as one line for people.
  function describePreview() {
    if (preview.kind === "images") {
      const names = preview.shown.join(", ") + (preview.count > preview.shown.length ? ", …" : "");
      return preview.count ? `${formatCount(preview.count)} ${preview.count === 1 ? "picture" : "pictures"}: ${names}` : "No picture in it.";
    }
    if (!preview.names) return `Taken for ${preview.kind.replaceAll("_", " ")}.`;
    if (preview.columns && !(find("[data-field=image]")?.value ?? preview.columns.image)) return "No column was taken for the picture: choose it.";
    const found = `Images of the first ${preview.rows.length === 1 ? "row" : `${preview.rows.length} rows`}: ${preview.found} found`;
    if (!preview.missing) return `${found}.`;
    return `${found}; ${preview.missing}. ${isVisitor() ? "Send a zip of the table with its images." : "Name the folder that they start from, or bring a zip of the table with its images."}`;
  }

  function drawPreview() {
    const host = find(".hs-preview");
    const line = previewLine();
    if (preview.kind === "images" || (preview.missing && !isVisitor())) find(".hs-import-options").open = true;
    showFields();
    if (!preview.names) return host.replaceChildren(line);
    host.replaceChildren(...present([
      line,
      preview.columns ? build("div", { class: "hs-columns" }, Object.entries(COLUMN_TITLES).map(([field, title]) => {
        const isOptional = !["image", "question"].includes(field);
        const empty = isOptional ? [["", "none"]] : preview.columns[field] ? [] : [["", "choose…"]];
        const options = [...empty, ...preview.names.map((name) => [name, name])];
        const value = preview.columns[field] ?? "";
        if (value && !preview.names.includes(value)) options.push([value, value]); // several columns of options
        const select = build("select", { "data-field": field, "aria-label": title }, options.map(([name, text]) => build("option", { value: name, text })));
        select.value = value;
        if (field === "image") select.addEventListener("change", countImages);
        return build("label", {}, [build("span", { text: title }), select]);
      })) : null,
      build("div", { class: "hs-table-host" }, [build("table", {}, [
        build("thead", {}, [build("tr", {}, preview.names.map((name) => build("th", { scope: "col", text: name })))]),
        build("tbody", {}, preview.rows.map((row) => build("tr", {}, preview.names.map((name) => build("td", { text: row[name] }))))),
      ])]),
    ]));
  }

  async function startImport() {
    if (asksOneQuestion()) {
      askForQuestion();
      return showMessage("Type the question to ask about each image.", true);
    }
    const unchosen = ["image", "question"].map((field) => find(`[data-field=${field}]`)).find((select) => select && !select.value);
    if (unchosen) {
      unchosen.focus();
      return showMessage(`Choose the column of the ${unchosen.getAttribute("aria-label").toLowerCase()}.`, true);
    }
    const columns = Object.fromEntries([...page.querySelectorAll("[data-field]")].map((select) => [select.dataset.field, select.value]));
    const answer = await call("start_import", {
      source: find(".hs-source").value, kind: find(".hs-kind").value, columns, image_root: imageRoot(),
      question: find(".hs-question").value, choices: find(".hs-choices").value,
    }, find(".hs-import-button"));
    if (!answer) return;
    dismissed = "null";
    forgetPreview();
    onBegin();
  }

  async function uploadFile(event) {
    const [file] = event.target.files;
    if (!file) return;
    showMessage(`Uploading ${file.name}…`);
    try {
      const found = await upload(file);
      find(".hs-source").value = found.path;
      showMessage("");
      previewSource();
    } catch {
      showMessage(`The file could not be uploaded; it may be too large. ${isVisitor() ? "Send a smaller one." : "Give its path instead."}`, true);
    }
  }

  const on = (name, event, act) => find(name).addEventListener(event, act);
  on(".hs-preview-button", "click", previewSource);
  on(".hs-import-button", "click", startImport);
  on(".hs-file", "change", uploadFile);
  on(".hs-kind", "change", () => {
    isGuessed = false;
    showFields();
  });
  on(".hs-image-root", "change", countImages);
  on(".hs-source", "input", () => {
    if (isGuessed) find(".hs-kind").value = "auto";
    isGuessed = false;
    forgetImport();
  });

  return {
    draw,
    showFields,
    // Another project: nothing of the one before stays.
    open() {
      importState = null;
      dismissed = "null";
      earlierInvalidRows = [];
      for (const name of [".hs-source", ".hs-file", ".hs-question", ".hs-choices", ".hs-image-root"]) find(name).value = "";
      find(".hs-kind").value = "auto";
      find(".hs-import-options").open = isGuessed = isAsked = false;
      forgetPreview();
    },
    showEarlier(rows) {
      earlierInvalidRows = rows;
      draw(importState);
    },
  };
}
