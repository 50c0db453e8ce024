// An SVG as a picture: no script in it could run, and none of its styles reaches the page.
function drawing(name, text) {
  const picture = build("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`, alt: name });
  const file = name.replaceAll(" ", "_");
  const save = (extension, make) => build("button", { type: "button", text: extension.toUpperCase(), "aria-label": `${name} as ${extension.toUpperCase()}`, onclick: async () => {
    const address = URL.createObjectURL(await make());
    build("a", { href: address, download: `${file}.${extension}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  } });
  const paint = () => new Promise((done) => {
    const canvas = build("canvas", { width: 2 * picture.naturalWidth, height: 2 * picture.naturalHeight });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(done, "image/png");
  });
  return build("figure", {}, [picture, build("figcaption", {}, [save("svg", async () => new Blob([text], { type: "image/svg+xml" })), save("png", paint)])]);
}
