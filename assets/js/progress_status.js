// Status line above the results: progress, or an error with advice.
const box = element.querySelector(".hs-status");

function running(value) {
  const percent = Math.round(value.fraction * 100);
  return [
    build("div", { class: "hs-status-line" }, [
      build("span", { class: "hs-spinner", "aria-hidden": "true" }),
      build("span", { text: value.stage }),
      build("span", { class: "hs-muted", text: `${percent} %` }),
    ]),
    progressBar(value.stage, value.fraction),
  ];
}

const failed = (value) => [build("strong", { text: value.title }), build("p", { text: value.message })];

function load() {
  const value = props.value;
  const state = value?.state ?? "idle";
  box.className = `hs-status hs-status-${state}`;
  box.setAttribute("role", state === "failed" ? "alert" : "status");
  const isNew = box.childElementCount === 0 || state === "failed";
  box.replaceChildren(...(state === "running" ? running(value) : state === "failed" ? failed(value) : []));
  // The button may be far below the status line.
  if (state !== "idle" && isNew) box.scrollIntoView({ block: "nearest" });
  document.querySelectorAll(".hs-result").forEach((column) => column.classList.toggle("hs-busy", state === "running"));
}

watch("value", load);
load();
