// The Import panel of the Label page: look into a source, map its columns, bring it in, and say what became of it.
const COLUMN_TITLES = { image: "Picture", question: "Question", answer: "Answer", choices: "Options", id: "Id", category: "Category" };

// makeImport(page, { call, say, upload, isVisitor, onBegin }): call(name, request, button) asks the server and shows its
// complaints; upload(file) gives the file's path there; onBegin runs when an import has begun.
function makeImport(page, { call, say, upload, isVisitor, onBegin }) {
  const find = (name) => page.querySelector(name);
  let preview = null; // what a look inside has found
  let isGuessed = false; // whether the kind is what a look inside made of the source
  let job = null; // the last import of the project, as the server tells it
  let past = "null"; // what it was when another source was looked at: it is not told any more
  let earlierBadRows = [];

  function draw(found) {
    job = found;
    const shown = JSON.stringify(job) === past ? null : job;
    const line = find(".hs-import-told");
    line.classList.toggle("hs-bad", Boolean(shown?.error));
    line.textContent = !shown ? "" : shown.error || shown.told || `Importing ${formatCount(shown.done)} of ${shown.total ? formatCount(shown.total) : "…"}`;
    if (shown?.error.startsWith("expected a question")) askForQuestion();
    const rows = shown ? shown.bad_rows : earlierBadRows;
    find(".hs-bad-rows").replaceChildren(...(rows.length
      ? [build("table", {}, [build("thead", {}, [build("tr", {}, [build("th", { scope: "col", text: "Row" }), build("th", { scope: "col", text: "Why it was left out" })])]),
        build("tbody", {}, rows.map(([place, reason]) => build("tr", {}, [build("td", { text: place }), build("td", { text: reason })])))])]
      : []));
  }

  async function peek() {
    forgetImport();
    const answer = await call("peek", { source: find(".hs-source").value, image_root: find(".hs-image-root").value }, find(".hs-peek"));
    if (!answer) return;
    preview = answer;
    find(".hs-kind").value = answer.kind;
    isGuessed = true;
    drawPreview();
  }

  // The pictures of another folder; the columns stay as they were mapped.
  async function lookForPictures() {
    const before = preview;
    if (!before?.names) return;
    const answer = await call("peek", { source: find(".hs-source").value, image_root: find(".hs-image-root").value });
    if (!answer?.names || preview !== before) return;
    Object.assign(preview, { found: answer.found, missing: answer.missing });
    find(".hs-preview > p").replaceWith(previewLine());
  }

  const previewLine = () => build("p", { class: preview.missing ? "hs-bad" : "hs-quiet", text: describePreview() });

  function forgetPreview() {
    preview = null;
    find(".hs-preview").replaceChildren();
    showFields();
  }

  function forgetImport() {
    forgetPreview();
    past = JSON.stringify(job);
    draw(job);
  }

  // Of what a source may need more, the fields that this one can use.
  function showFields() {
    for (const field of page.querySelectorAll(".hs-asked-field")) field.hidden = Boolean(preview?.names);
    find(".hs-root-field").hidden = isVisitor() || preview?.kind === "pictures";
  }

  const asksOneQuestion = () => find(".hs-kind").value === "pictures" && !find(".hs-question").value.trim();

  function askForQuestion() {
    if (find(".hs-more-import").open) return;
    find(".hs-more-import").open = true;
    find(".hs-question").focus();
  }

  // What a look inside has found, as one line for people.
  function describePreview() {
    if (preview.kind === "pictures") {
      const names = preview.shown.join(", ") + (preview.count > preview.shown.length ? ", …" : "");
      return preview.count ? `${formatCount(preview.count)} ${preview.count === 1 ? "picture" : "pictures"}: ${names}` : "No picture in it.";
    }
    if (!preview.names) return `Taken for ${preview.kind.replaceAll("_", " ")}.`;
    const found = `Pictures of the first ${preview.rows.length} rows: ${preview.found} found`;
    if (!preview.missing) return `${found}.`;
    return `${found}; ${preview.missing}. ${isVisitor() ? "Send a zip of the table with its pictures." : "Name the folder that they start from, or bring a zip of the table with its pictures."}`;
  }

  function drawPreview() {
    const host = find(".hs-preview");
    const line = previewLine();
    if (preview.kind === "pictures" || (preview.missing && !isVisitor())) find(".hs-more-import").open = true;
    showFields();
    if (!preview.names) return host.replaceChildren(line);
    host.replaceChildren(...present([
      line,
      preview.columns ? build("div", { class: "hs-columns" }, Object.entries(COLUMN_TITLES).map(([field, title]) => {
        const isOptional = !["image", "question"].includes(field);
        const options = [...(isOptional ? [["", "none"]] : []), ...preview.names.map((name) => [name, name])];
        const value = preview.columns[field] ?? "";
        if (value && !preview.names.includes(value)) options.push([value, value]); // several columns of options
        const select = build("select", { "data-field": field, "aria-label": title }, options.map(([name, text]) => build("option", { value: name, text })));
        select.value = value;
        return build("label", {}, [build("span", { text: title }), select]);
      })) : null,
      build("div", { class: "hs-table-host" }, [build("table", {}, [
        build("thead", {}, [build("tr", {}, preview.names.map((name) => build("th", { scope: "col", text: name })))]),
        build("tbody", {}, preview.rows.map((row) => build("tr", {}, preview.names.map((name) => build("td", { text: row[name] }))))),
      ])]),
    ]));
  }

  async function bring() {
    if (asksOneQuestion()) {
      askForQuestion();
      return say("Type the question to ask about each picture.", true);
    }
    const columns = Object.fromEntries([...page.querySelectorAll("[data-field]")].map((select) => [select.dataset.field, select.value]));
    const answer = await call("bring", {
      source: find(".hs-source").value, kind: find(".hs-kind").value, columns, image_root: find(".hs-image-root").value,
      question: find(".hs-question").value, choices: find(".hs-choices").value,
    }, find(".hs-bring"));
    if (!answer) return;
    past = "null";
    forgetPreview();
    onBegin();
  }

  async function uploadFile(event) {
    const [file] = event.target.files;
    if (!file) return;
    say(`Uploading ${file.name}…`);
    try {
      const found = await upload(file);
      find(".hs-source").value = found.path;
      say("");
      peek();
    } catch {
      say(`The file could not be uploaded; it may be too large. ${isVisitor() ? "Send a smaller one." : "Give its path instead."}`, true);
    }
  }

  const on = (name, event, act) => find(name).addEventListener(event, act);
  on(".hs-peek", "click", peek);
  on(".hs-bring", "click", bring);
  on(".hs-file", "change", uploadFile);
  on(".hs-kind", "change", () => { isGuessed = false; });
  on(".hs-image-root", "change", lookForPictures);
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
      job = null;
      past = "null";
      earlierBadRows = [];
      forgetPreview();
    },
    showEarlier(rows) {
      earlierBadRows = rows;
      draw(job);
    },
  };
}
