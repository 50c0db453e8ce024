// Model inputs: the overview at its real size, then every crop at native resolution.
const strip = element.querySelector(".hs-model-inputs");

function figure(image, title, lines) {
  return build("figure", { class: "hs-figure" }, [
    build("img", { src: image.url, alt: title, loading: "lazy", decoding: "async" }),
    build("figcaption", {}, [build("strong", { text: title }), ...lines.map((line) => build("span", { text: line }))]),
  ]);
}

function cropFigure(crop, index) {
  const show = () => resultColumn().dispatchEvent(new CustomEvent("hart-show-area", { detail: crop.area }));
  return build(
    "button",
    {
      type: "button",
      class: "hs-crop",
      onclick: show,
      "aria-label": `Crop ${index + 1}, ${formatSize(crop.width, crop.height)}: show it in the image`,
    },
    [
      figure(crop.image, `Crop ${index + 1}`, [
        formatSize(crop.width, crop.height),
        `${formatShare(crop.area_share)} of the area`,
      ]),
    ],
  );
}

function load() {
  const value = props.value;
  strip.replaceChildren();
  if (!value) return;
  const { overview, crops } = value;
  strip.append(
    build("section", {}, [
      build("h3", { text: "Overview (model input)" }),
      figure(overview.image, "Overview", [
        formatSize(overview.width, overview.height),
        `${formatShare(overview.pixel_share)} of the pixels`,
      ]),
    ]),
    build("section", {}, [
      build("h3", { text: crops.length === 1 ? "Predicted region" : "Predicted regions" }),
      crops.length
        ? build("div", { class: "hs-crops" }, crops.map(cropFigure))
        : build("p", { class: "hs-muted", text: value.no_crops_reason }),
    ]),
  );
}

watch("value", load);
load();
