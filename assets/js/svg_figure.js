// SVG as an <img>: scripts in it do not run and its styles do not affect the page.
function svgFigure(name, text) {
  const image = build("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`, alt: name });
  const file = name.replaceAll(" ", "_");
  const save = (extension, make) =>
    build("button", {
      type: "button",
      text: extension.toUpperCase(),
      "aria-label": `${name} as ${extension.toUpperCase()}`,
      onclick: async () => {
        const address = URL.createObjectURL(await make());
        build("a", { href: address, download: `${file}.${extension}` }).click();
        setTimeout(() => URL.revokeObjectURL(address), 1000);
      },
    });
  const paint = () =>
    new Promise((done) => {
      const canvas = build("canvas", { width: 2 * image.naturalWidth, height: 2 * image.naturalHeight });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    });
  return build("figure", {}, [
    image,
    build("figcaption", {}, [save("svg", async () => new Blob([text], { type: "image/svg+xml" })), save("png", paint)]),
  ]);
}
