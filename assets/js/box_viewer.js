// Image viewer with numbered boxes: zoom, pan, keyboard.
const stage = element.querySelector(".hs-canvas");
const shapes = stage.querySelector("svg g");
const list = element.querySelector(".hs-box-list");
const zoomLabel = element.querySelector(".hs-zoom");
const nameLabel = element.querySelector(".hs-viewer-name");

let scene = null; // the value from Python, or null when there is no image
let selected = -1;
const viewer = createImageViewer(stage, draw);

function showArea(area) {
  viewer.showArea(area);
  stage.scrollIntoView({ block: "nearest" });
}

function selectBox(index) {
  selected = index;
  showArea(scene.boxes[index]);
}

function drawRegion(box, className, index) {
  shapes.append(
    build("svg:rect", { ...frameOf(box), class: `${className} hs-box-outline` }),
    build("svg:rect", { ...frameOf(box), class: className, "data-box": index }),
  );
}

function draw() {
  if (!scene) return;
  shapes.replaceChildren();
  scene.crops.forEach((crop) => drawRegion(crop, "hs-crop-area", null));
  scene.boxes.forEach((box, index) => drawRegion(box, index === selected ? "hs-box hs-selected" : "hs-box", index));
  scene.boxes.forEach((box, index) =>
    drawNumber(shapes, viewer, box, index + 1, index === selected ? "hs-selected" : ""),
  );
  zoomLabel.textContent = `${viewer.zoom().toFixed(1)}×`;
  list.querySelectorAll("button").forEach((button, index) => button.setAttribute("aria-pressed", index === selected));
}

function drawList() {
  list.replaceChildren(
    ...scene.boxes.map((box, index) => {
      const width = box.x_max - box.x_min;
      const height = box.y_max - box.y_min;
      const share = (width * height) / (scene.width * scene.height);
      const about = `${formatSize(width, height)} · ${formatShare(share)}`;
      return build("li", {}, [
        build("button", { type: "button", "aria-pressed": "false", onclick: () => selectBox(index) }, [
          build("span", { class: "hs-chip", text: index + 1 }),
          build("span", { class: "hs-box-label", text: box.label || "region" }),
          build("span", { class: "hs-box-about", text: about }),
        ]),
      ]);
    }),
  );
}

const copyOf = (copy) => ({ url: copy.path.url, width: copy.width });

function load() {
  const value = props.value;
  scene = value ? { ...value, preview: copyOf(value.preview), detail: copyOf(value.detail) } : null;
  selected = -1;
  element.querySelector(".hs-viewer").classList.toggle("hs-is-empty", !scene);
  list.replaceChildren();
  if (!scene) {
    viewer.show(null);
    shapes.replaceChildren();
    return;
  }
  nameLabel.textContent = `${scene.name} · ${formatSize(scene.width, scene.height)}`;
  nameLabel.title = scene.name;
  stage.setAttribute("aria-label", `${scene.name} with ${scene.boxes.length} numbered regions`);
  drawList();
  viewer.show(scene);
}

const commands = addViewerControls(stage, viewer, {
  isOn: () => scene !== null,
  onKey: (key) => {
    const digit = /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
    if (!scene.boxes[digit]) return false;
    selectBox(digit);
    return true;
  },
  onClick: (node) => {
    selected = node.dataset.box === undefined ? -1 : Number(node.dataset.box);
    draw();
  },
});

element
  .querySelectorAll("[data-command]")
  .forEach((button) => button.addEventListener("click", () => scene && commands[button.dataset.command]()));
resultColumn().addEventListener("hart-show-area", (event) => scene && showArea(event.detail));
watch("value", load);
load();
