// A picture with numbered boxes: zoom, pan, keyboard. Coordinates are ORIGINAL pixels throughout; the SVG view box is
// the visible part of the original, so the served file may be any smaller copy of it.
const MAX_ZOOM = 64; // times the fitted view
const PAN_STEP = 0.12; // of the visible width or height, per arrow key
const stage = element.querySelector(".hs-stage");
const svg = stage.querySelector("svg");
const picture = svg.querySelector("image");
const shapes = svg.querySelector("g");
const list = element.querySelector(".hs-box-list");
const zoomLabel = element.querySelector(".hs-zoom");
const nameLabel = element.querySelector(".hs-viewer-name");

let scene = null; // the value from Python, or null when there is no picture
let view = { x: 0, y: 0, width: 1, height: 1 };
let isFitted = true; // a view of the whole picture stays one when the stage changes its size
let selected = -1;
let drag = null;

const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));
const screenPerPixel = () => svg.getScreenCTM()?.a || 1;

function toPicture(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return { x: point.x, y: point.y };
}

// The part of the original that fills the stage at zoom 1, with the stage's own aspect ratio.
function fittedView() {
  const stageAspect = (stage.clientWidth || 4) / (stage.clientHeight || 3);
  const width = Math.max(scene.width, scene.height * stageAspect);
  const height = width / stageAspect;
  return { x: (scene.width - width) / 2, y: (scene.height - height) / 2, width, height };
}

const zoom = () => fittedView().width / view.width;

// Keeps the picture in sight: no further out than the fitted view, no pan past an edge.
function setView(next) {
  const fitted = fittedView();
  const width = clamp(next.width, fitted.width / MAX_ZOOM, fitted.width);
  isFitted = width >= fitted.width * 0.999;
  const height = width * (fitted.height / fitted.width);
  const keep = (start, extent, side) =>
    extent >= side ? (side - extent) / 2 : clamp(start, 0, side - extent);
  view = { x: keep(next.x, width, scene.width), y: keep(next.y, height, scene.height), width, height };
  draw();
}

const fit = () => setView(fittedView());

function zoomAt(factor, point = { x: view.x + view.width / 2, y: view.y + view.height / 2 }) {
  const fitted = fittedView();
  const width = clamp(view.width / factor, fitted.width / MAX_ZOOM, fitted.width);
  const scale = width / view.width;
  setView({ x: point.x - (point.x - view.x) * scale, y: point.y - (point.y - view.y) * scale, width });
}

function pan(columns, rows) {
  setView({ ...view, x: view.x + columns * PAN_STEP * view.width, y: view.y + rows * PAN_STEP * view.height });
}

// Brings a rectangle of the original to the middle, with as much room around it again.
function showArea(area) {
  const fitted = fittedView();
  const aspect = fitted.width / fitted.height;
  const width = 2.2 * Math.max(area.x_max - area.x_min, (area.y_max - area.y_min) * aspect);
  const [x, y] = [(area.x_min + area.x_max) / 2, (area.y_min + area.y_max) / 2];
  setView({ x: x - width / 2, y: y - width / aspect / 2, width });
  stage.scrollIntoView({ block: "nearest" });
}

function selectBox(index) {
  selected = index;
  showArea(scene.boxes[index]);
}

// The small copy is enough until one of its pixels would cover more than one device pixel.
function chooseCopy() {
  const shownWidth = scene.width * screenPerPixel() * (window.devicePixelRatio || 1);
  const copy = shownWidth > scene.preview.width ? scene.detail : scene.preview;
  if (picture.dataset.url === copy.image.url) return;
  picture.dataset.url = copy.image.url;
  picture.dataset.width = copy.width;
  // Decoded before it is shown, so that changing copies does not flash.
  const loader = new Image();
  loader.onload = () => picture.dataset.url === copy.image.url && picture.setAttribute("href", copy.image.url);
  loader.src = copy.image.url;
}

function drawRegion(box, className, index) {
  const frame = { x: box.x_min, y: box.y_min, width: box.x_max - box.x_min, height: box.y_max - box.y_min };
  shapes.append(
    build("svg:rect", { ...frame, class: `${className} hs-casing` }),
    build("svg:rect", { ...frame, class: className, "data-box": index }),
  );
}

function drawNumber(box, index) {
  const unit = 1 / screenPerPixel();
  const width = (String(index + 1).length * 8 + 12) * unit;
  const height = 20 * unit;
  const y = box.y_min - height - 2 * unit >= view.y ? box.y_min - height - 2 * unit : box.y_max + 2 * unit;
  const group = build("svg:g", { class: `hs-number ${index === selected ? "hs-selected" : ""}` }, [
    build("svg:rect", { x: box.x_min, y, width, height, rx: 4 * unit }),
    build("svg:text", {
      x: box.x_min + width / 2, y: y + height * 0.72, "font-size": 13 * unit, "text-anchor": "middle", text: index + 1,
    }),
  ]);
  shapes.append(group);
}

function draw() {
  if (!scene) return;
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  shapes.replaceChildren();
  scene.crops.forEach((crop) => drawRegion(crop, "hs-crop-area", null));
  scene.boxes.forEach((box, index) => drawRegion(box, index === selected ? "hs-box hs-selected" : "hs-box", index));
  scene.boxes.forEach(drawNumber);
  zoomLabel.textContent = `${zoom().toFixed(1)}×`;
  list.querySelectorAll("button").forEach((button, index) => button.setAttribute("aria-pressed", index === selected));
  chooseCopy();
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

function load() {
  const value = props.value;
  const samePicture = scene && value && scene.preview.image.url === value.preview.image.url;
  scene = value || null;
  selected = -1;
  element.querySelector(".hs-viewer").classList.toggle("hs-is-empty", !scene);
  list.replaceChildren();
  if (!scene) {
    picture.removeAttribute("href");
    delete picture.dataset.url;
    shapes.replaceChildren();
    return;
  }
  nameLabel.textContent = `${scene.name} · ${formatSize(scene.width, scene.height)}`;
  nameLabel.title = scene.name;
  stage.setAttribute("aria-label", `${scene.name} with ${scene.boxes.length} numbered regions`);
  picture.setAttribute("width", scene.width);
  picture.setAttribute("height", scene.height);
  drawList();
  if (samePicture) draw();
  else fit();
}

const commands = {
  "+": () => zoomAt(1.4), "=": () => zoomAt(1.4), "-": () => zoomAt(1 / 1.4), f: fit,
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
};

stage.addEventListener("keydown", (event) => {
  if (!scene || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : -1;
  if (scene.boxes[digit]) selectBox(digit);
  else if (commands[event.key]) commands[event.key]();
  else return;
  event.preventDefault();
});

// Plain scrolling belongs to the page until the picture has the focus.
stage.addEventListener("wheel", (event) => {
  if (!scene || !(event.ctrlKey || stage.contains(document.activeElement))) return;
  event.preventDefault();
  zoomAt(Math.exp(-event.deltaY * 0.0015), toPicture(event));
}, { passive: false });

stage.addEventListener("pointerdown", (event) => {
  if (!scene || event.button !== 0) return;
  stage.focus({ preventScroll: true });
  stage.setPointerCapture(event.pointerId);
  drag = { x: event.clientX, y: event.clientY, view, moved: false, box: event.target.dataset.box };
});

stage.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
  drag.moved ||= Math.hypot(dx, dy) > 3;
  if (!drag.moved) return;
  const unit = 1 / screenPerPixel();
  setView({ ...drag.view, x: drag.view.x - dx * unit, y: drag.view.y - dy * unit });
});

stage.addEventListener("pointerup", () => {
  if (drag && !drag.moved) {
    selected = drag.box === undefined ? -1 : Number(drag.box);
    draw();
  }
  drag = null;
});
stage.addEventListener("pointercancel", () => { drag = null; });
stage.addEventListener("dblclick", (event) => scene && zoomAt(2, toPicture(event)));

element.querySelectorAll("[data-command]").forEach((button) =>
  button.addEventListener("click", () => scene && commands[button.dataset.command]()),
);
resultColumn().addEventListener("hart-show-area", (event) => scene && showArea(event.detail));
// Same centre and zoom when the stage changes size (window, column, first layout).
new ResizeObserver(() => {
  if (!scene || !stage.clientWidth) return;
  if (isFitted) return fit();
  const fitted = fittedView();
  const width = Math.min(view.width, fitted.width);
  const height = width * (fitted.height / fitted.width);
  setView({ x: view.x + (view.width - width) / 2, y: view.y + (view.height - height) / 2, width });
}).observe(stage);
watch("value", load);
load();
