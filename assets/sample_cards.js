// The first samples of each part of a data set, as training would get them.
const shelf = element.querySelector(".hs-samples");

const card = (sample) =>
  build("figure", { class: "hs-sample" }, [
    sample.picture
      ? build("img", { src: sample.picture.url, alt: "", loading: "lazy" })
      : build("div", { class: "hs-sample-broken", text: sample.problem || "no picture" }),
    build("figcaption", {}, [
      build("span", { class: "hs-tag", text: sample.part }),
      build("p", { text: sample.question }),
      sample.choices.length
        ? build("ul", {}, sample.choices.map((choice, index) => {
            const letter = String.fromCharCode(65 + index);
            return build("li", { class: letter === sample.answer ? "hs-true" : "", text: `${letter} ${choice}` });
          }))
        : build("p", { class: "hs-quiet", text: sample.answer }),
    ]),
  ]);

function load() {
  const value = props.value;
  shelf.hidden = !value;
  if (!value) return;
  shelf.replaceChildren(
    build("p", { class: "hs-quiet", text: [value.headline, ...value.left_out].join(" · ") }),
    build("div", { class: "hs-sample-row" }, value.cards.map(card)),
  );
}

watch("value", load);
load();
