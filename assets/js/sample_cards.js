// The first samples of each part of a dataset, as training would get them.
const container = element.querySelector(".hs-samples");

const card = (sample) =>
  build("figure", { class: "hs-sample" }, [
    sample.image
      ? build("img", { src: sample.image.url, alt: "", loading: "lazy" })
      : build("div", { class: "hs-sample-broken", text: sample.problem || "no image" }),
    build("figcaption", {}, [
      build("span", { class: "hs-tag", text: sample.part }),
      build("p", { text: sample.question }),
      sample.choices.length
        ? build("ul", {}, choiceItems(sample.choices, sample.answer, "hs-correct"))
        : build("p", { class: "hs-muted", text: sample.answer }),
    ]),
  ]);

function load() {
  const value = props.value;
  container.hidden = !value;
  if (!value) return;
  container.replaceChildren(
    build("p", { class: "hs-muted", text: [value.headline, ...value.left_out].join(" · ") }),
    build("div", { class: "hs-sample-row" }, value.cards.map(card)),
  );
}

watch("value", load);
load();
