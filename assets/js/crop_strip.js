// Model inputs: the overview at its real size, then every crop at native resolution.
const strip = element.querySelector(".hs-model-inputs");

function figure(image, title, lines) {
  return build("figure", { class: "hs-figure" }, [
    build("img", { src: image.url, alt: title, loading: "lazy", decoding: "async" }),
    build("figcaption", {}, [build("strong", { text: title }), ...lines.map((line) => build("span", { text: line }))]),
  ]);
}

function cropFigure({ path, area }, index, pixels) {
  const [width, height] = [area.x_max - area.x_min, area.y_max - area.y_min];
  const show = () => resultColumn().dispatchEvent(new CustomEvent("hart-show-area", { detail: area }));
  return build(
    "button",
    {
      type: "button",
      class: "hs-crop",
      onclick: show,
      "aria-label": `Crop ${index + 1}, ${formatSize(width, height)}: show it in the image`,
    },
    [
      figure(path, `Crop ${index + 1}`, [
        formatSize(width, height),
        `${formatShare((width * height) / pixels)} of the area`,
      ]),
    ],
  );
}

function load() {
  const value = props.value;
  strip.replaceChildren();
  if (!value) return;
  const { overview, crops } = value;
  const pixels = value.original_wh[0] * value.original_wh[1];
  strip.append(
    build("section", {}, [
      build("h3", { text: "Overview (model input)" }),
      figure(overview.path, "Overview", [
        formatSize(overview.width, overview.height),
        `${formatShare((overview.width * overview.height) / pixels)} of the pixels`,
      ]),
    ]),
    build("section", {}, [
      build("h3", { text: crops.length === 1 ? "Predicted region" : "Predicted regions" }),
      crops.length
        ? build(
            "div",
            { class: "hs-crops" },
            crops.map((crop, index) => cropFigure(crop, index, pixels)),
          )
        : build("p", { class: "hs-muted", text: value.no_crops_reason }),
    ]),
  );
}

watch("value", load);
load();
