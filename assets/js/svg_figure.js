// Figures as SVG, and files of them as SVG and PNG.
const svgBlob = (text) => new Blob([text], { type: "image/svg+xml" });

// SVG as an <img>: scripts in it do not run and its styles do not affect the page.
const svgImage = (text, name = "") =>
  build("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`, alt: name });

async function paintSvg(text) {
  const image = svgImage(text);
  await image.decode();
  const canvas = build("canvas", { width: 2 * image.naturalWidth, height: 2 * image.naturalHeight });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function saveFile(name, blob) {
  const address = URL.createObjectURL(blob);
  build("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function svgFigure(name, text) {
  const file = name.replaceAll(" ", "_");
  const save = (extension, make) =>
    build("button", {
      type: "button",
      text: extension.toUpperCase(),
      "aria-label": `${name} as ${extension.toUpperCase()}`,
      onclick: async () => saveFile(`${file}.${extension}`, await make(text)),
    });
  return build("figure", {}, [
    svgImage(text, name),
    build("figcaption", {}, [save("svg", svgBlob), save("png", paintSvg)]),
  ]);
}
