// Quality and export of a project on the Label tab. Uses the scope of label_page.js.
const table = (heads, rows) =>
  build("div", { class: "hs-table-host" }, [
    buildTable(
      heads.map((text) => build("th", { scope: "col", text, title: text === "IoG > 0.3" ? IOG_HELP : null })),
      rows,
    ),
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
      text:
        "Known-answer and agreement evidence are reported separately; with agreement, the answer of most rollouts " +
        "counts as correct. Intervals are 95 % Wilson intervals.",
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
              `Inter-annotator agreement on ${response.agreement.items} items: mean IoU where both kept boxes ` +
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

const exportRequest = () => ({
  format: find(".hs-format").value,
  statuses: [...page.querySelectorAll(".hs-export-status:checked")].map((box) => box.value),
  splits: ["train", "val", "test"].map((name) => Number(find(`.hs-split-${name}`).value) / 100),
  min_score: find(".hs-export-score").value === "" ? null : Number(find(".hs-export-score").value),
  box_class: find(".hs-export-class").value,
  exif: find(".hs-exif").value,
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
