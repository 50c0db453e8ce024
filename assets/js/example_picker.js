// Example cards; choosing one fills the form.
const container = element.querySelector(".hs-examples");

function load() {
  const examples = props.value ?? [];
  container.hidden = examples.length === 0;
  container.replaceChildren(
    ...examples.map((example, index) =>
      build(
        "button",
        {
          type: "button",
          class: "hs-example",
          title: example.question,
          onclick: () => trigger("pick", { index }),
        },
        [build("img", { src: example.image.url, alt: "", loading: "lazy" }), build("span", { text: example.title })],
      ),
    ),
  );
}

watch("value", load);
load();
