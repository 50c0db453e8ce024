// Import panel of the Label tab: preview a source, map its columns, import it, show the result.
const QUESTIONS_OF_KINDS = {
  images: ["Question template (placeholders: {name}, {folder})", "Where is the {name}?"],
  auto: ["Question template (placeholders: {name}, {folder}, {label})", "Where is the {label}?"],
  coco: [
    "Question template (placeholders: {label}, {supercategory}, {area}, {name}, {folder})",
    "Where is the {label}?",
  ],
};
const QUESTION_OF_LABELS = [
  "Question template (placeholders: {label}, {area}, {name}, {folder})",
  "Where is the {label}?",
];
const COLUMN_TITLES = {
  image: "Image",
  question: "Question",
  answer: "Answer",
  choices: "Choices",
  id: "ID",
  category: "Category",
};

// call(name, request, button): calls the server and shows errors. upload(file): returns the path on the server.
// onBegin: called when an import has started.
function createImportPanel(page, { call, showMessage, upload, isVisitor, onBegin }) {
  const find = (name) => page.querySelector(name);
  let preview = null; // preview of the source
  let isGuessed = false; // whether the source type was detected by the preview
  let importState = null; // newest import of the project, from the server
  let dismissed = "null"; // import state when another source was chosen; it is hidden from then on
  let earlierInvalidRows = [];
  let previewCount = 0; // responses to earlier previews are ignored
  let isAsked = false; // whether the question field was opened for the last import

  function draw(found) {
    importState = found;
    const shown = JSON.stringify(importState) === dismissed ? null : importState;
    const line = find(".hs-import-message");
    line.classList.toggle("hs-bad", Boolean(shown?.error));
    line.textContent = !shown
      ? ""
      : shown.error ||
        shown.message ||
        `Importing ${formatCount(shown.done)} of ${shown.total ? formatCount(shown.total) : "…"}`;
    const needsQuestion = /^(expected a question|No question|The question )/.test(shown?.error ?? "");
    if (needsQuestion && !isAsked) askForQuestion();
    isAsked = needsQuestion;
    const rows = shown ? shown.invalid_rows : earlierInvalidRows;
    find(".hs-invalid-rows").replaceChildren(...(rows.length ? [buildTable(["Row", "Reason"], rows)] : []));
  }

  async function previewSource() {
    forgetImport();
    const number = previewCount;
    const answer = await call(
      "preview_source",
      { source: find(".hs-source").value, image_root: imageRoot() },
      find(".hs-preview-button"),
    );
    if (!answer || number !== previewCount) return;
    preview = answer;
    find(".hs-kind").value = answer.kind;
    isGuessed = true;
    drawPreview();
  }

  // Count the images of another folder or column; the column mapping stays.
  async function countImages() {
    if (!preview?.names) return;
    const number = ++previewCount;
    const column = find("[data-field=image]")?.value ?? "";
    const answer = await call("preview_source", {
      source: find(".hs-source").value,
      image_root: imageRoot(),
      image_column: column,
    });
    if (!answer?.names || number !== previewCount) return;
    Object.assign(preview, { found: answer.found, missing: answer.missing });
    find(".hs-preview > p").replaceWith(previewLine());
  }

  const previewLine = () => build("p", { class: preview.missing ? "hs-bad" : "hs-muted", text: describePreview() });

  function forgetPreview() {
    previewCount += 1;
    preview = null;
    find(".hs-preview").replaceChildren();
    showFields();
  }

  function forgetImport() {
    forgetPreview();
    dismissed = JSON.stringify(importState);
    draw(importState);
  }

  // Show the import options that this type of source uses.
  function showFields() {
    const isImageFolder = find(".hs-kind").value === "images";
    for (const field of page.querySelectorAll(".hs-question-field"))
      field.hidden = Boolean(preview?.names) && !isImageFolder;
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

  // One-line summary of the preview.
  function describePreview() {
    if (preview.kind === "images") {
      const names = preview.shown.join(", ") + (preview.count > preview.shown.length ? ", …" : "");
      return preview.count
        ? `${formatCount(preview.count)} ${preview.count === 1 ? "image" : "images"}: ${names}`
        : "No images found.";
    }
    if (!preview.names) return `Detected type: ${preview.kind.replaceAll("_", " ")}.`;
    if (preview.columns && !(find("[data-field=image]")?.value ?? preview.columns.image))
      return "Image column not detected. Choose it.";
    const found =
      `Images in the first ` +
      `${preview.rows.length === 1 ? "row" : `${preview.rows.length} rows`}: ${preview.found} found`;
    if (!preview.missing) return `${found}.`;
    return (
      `${found}; ${preview.missing}. ` +
      (isVisitor()
        ? "Upload a zip of the table with its images."
        : "Set Image folder, or upload a zip of the table with its images.")
    );
  }

  function drawPreview() {
    const host = find(".hs-preview");
    const line = previewLine();
    if (preview.kind === "images" || (preview.missing && !isVisitor())) find(".hs-import-options").open = true;
    showFields();
    if (!preview.names) return host.replaceChildren(line);
    host.replaceChildren(
      ...present([
        line,
        preview.columns
          ? build(
              "div",
              { class: "hs-columns" },
              Object.entries(COLUMN_TITLES).map(([field, title]) => {
                const isOptional = !["image", "question"].includes(field);
                const empty = isOptional ? [["", "none"]] : preview.columns[field] ? [] : [["", "choose…"]];
                const options = [...empty, ...preview.names.map((name) => [name, name])];
                const value = preview.columns[field] ?? "";
                if (value && !preview.names.includes(value)) options.push([value, value]); // several choice columns
                const select = build(
                  "select",
                  { "data-field": field, "aria-label": title },
                  options.map(([name, text]) => build("option", { value: name, text })),
                );
                select.value = value;
                if (field === "image") select.addEventListener("change", countImages);
                return build("label", {}, [build("span", { text: title }), select]);
              }),
            )
          : null,
        build("div", { class: "hs-table-host" }, [
          buildTable(
            preview.names,
            preview.rows.map((row) => preview.names.map((name) => row[name])),
          ),
        ]),
      ]),
    );
  }

  async function startImport() {
    if (asksOneQuestion()) {
      askForQuestion();
      return showMessage("Enter a question for the images.", true);
    }
    const unchosen = ["image", "question"]
      .map((field) => find(`[data-field=${field}]`))
      .find((select) => select && !select.value);
    if (unchosen) {
      unchosen.focus();
      return showMessage(`Choose the ${unchosen.getAttribute("aria-label").toLowerCase()} column.`, true);
    }
    const columns = Object.fromEntries(
      [...page.querySelectorAll("[data-field]")].map((select) => [select.dataset.field, select.value]),
    );
    const answer = await call(
      "start_import",
      {
        source: find(".hs-source").value,
        kind: find(".hs-kind").value,
        columns,
        image_root: imageRoot(),
        question: find(".hs-question").value,
        choices: find(".hs-choices").value,
      },
      find(".hs-import-button"),
    );
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
      showMessage(
        `Upload failed; the file may be too large. ` +
          `${isVisitor() ? "Upload a smaller file." : "Enter its path instead."}`,
        true,
      );
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
    // Reset for another project.
    open() {
      importState = null;
      dismissed = "null";
      earlierInvalidRows = [];
      for (const name of [".hs-source", ".hs-file", ".hs-question", ".hs-choices", ".hs-image-root"])
        find(name).value = "";
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
