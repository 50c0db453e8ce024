// Why the answers below mean nothing, one sentence group a model.
const notice = element.querySelector(".hs-model-notice");

function load() {
  notice.replaceChildren(...(props.value ?? []).map((text) => build("p", { class: "hs-warning", text })));
}

watch("value", load);
load();
