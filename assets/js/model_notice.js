// Warnings about the chosen models and this image. The warnings of all listed models come with the image, so that
// choosing a model needs no call to the server.
const notice = element.querySelector(".hs-model-notice");
const FIELDS = ["#ask-model-a input", "#ask-model-b input"];
const POLL_MS = 300; // a list sets the text of its field without an event
let shown = "";

function load() {
  const chosen = FIELDS.map((field) => document.querySelector(field)?.value.trim());
  const warnings = [...new Set(chosen.map((text) => (props.value ?? {})[text]).filter(Boolean))];
  if (warnings.join("\n") === shown) return;
  shown = warnings.join("\n");
  notice.replaceChildren(...warnings.map((text) => build("p", { class: "hs-warning", text })));
}

watch("value", load);
load();
setInterval(load, POLL_MS);
