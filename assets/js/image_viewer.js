// An image of any size in an SVG: zoom and pan. Coordinates are ORIGINAL pixels throughout; the SVG view box is the
// visible part of the original, so the served file may be any smaller copy of it.
const MAX_ZOOM = 64; // times the fitted view
const PAN_STEP = 0.12; // of the visible width or height, per arrow key

const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

// stage: an element with <svg><image><g>. draw: called after every change of the view.
// A scene has width and height, and preview and detail: {url, width} each.
function createImageViewer(stage, draw) {
  const svg = stage.querySelector("svg");
  const imageNode = svg.querySelector("image");
  let scene = null;
  let view = { x: 0, y: 0, width: 1, height: 1 };
  let isFitted = true; // a fitted view stays fitted when the stage is resized

  const screenPerPixel = () => svg.getScreenCTM()?.a || 1;

  function toImage(event) {
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

  // Clamp the view: no zoom out beyond the fitted view, no pan past an edge.
  function setView(next) {
    const fitted = fittedView();
    const width = clamp(next.width, fitted.width / MAX_ZOOM, fitted.width);
    isFitted = width >= fitted.width * 0.999;
    const height = width * (fitted.height / fitted.width);
    const keep = (start, extent, side) => (extent >= side ? (side - extent) / 2 : clamp(start, 0, side - extent));
    view = { x: keep(next.x, width, scene.width), y: keep(next.y, height, scene.height), width, height };
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    chooseCopy();
    draw();
  }

  const fit = () => setView(fittedView());

  function zoomAt(factor, point = { x: view.x + view.width / 2, y: view.y + view.height / 2 }) {
    const fitted = fittedView();
    const width = clamp(view.width / factor, fitted.width / MAX_ZOOM, fitted.width);
    const scale = width / view.width;
    setView({ x: point.x - (point.x - view.x) * scale, y: point.y - (point.y - view.y) * scale, width });
  }

  const pan = (columns, rows) =>
    setView({ ...view, x: view.x + columns * PAN_STEP * view.width, y: view.y + rows * PAN_STEP * view.height });

  // Center a rectangle of the original, with a margin around it.
  function showArea(area, margin = 2.2) {
    const fitted = fittedView();
    const aspect = fitted.width / fitted.height;
    const width = margin * Math.max(area.x_max - area.x_min, (area.y_max - area.y_min) * aspect);
    const [x, y] = [(area.x_min + area.x_max) / 2, (area.y_min + area.y_max) / 2];
    setView({ x: x - width / 2, y: y - width / aspect / 2, width });
  }

  // The small copy is enough until one of its pixels would cover more than one device pixel.
  function chooseCopy() {
    const shownWidth = scene.width * screenPerPixel() * (window.devicePixelRatio || 1);
    const copy = shownWidth > scene.preview.width ? scene.detail : scene.preview;
    if (imageNode.dataset.url === copy.url) return;
    imageNode.dataset.url = copy.url;
    imageNode.dataset.width = copy.width;
    // Decoded before it is shown, so that changing copies does not flash.
    const loader = new Image();
    loader.onload = () => imageNode.dataset.url === copy.url && imageNode.setAttribute("href", copy.url);
    loader.src = copy.url;
  }

  function show(next) {
    const isSame = scene && next && scene.preview.url === next.preview.url;
    scene = next;
    if (!scene) {
      imageNode.removeAttribute("href");
      delete imageNode.dataset.url;
      return;
    }
    if (!isSame) imageNode.removeAttribute("href"); // never show the old image under new boxes
    imageNode.setAttribute("width", scene.width);
    imageNode.setAttribute("height", scene.height);
    if (isSame) setView(view);
    else fit();
  }

  // Same center and zoom when the stage changes size (window, column, first layout).
  new ResizeObserver(() => {
    if (!scene || !stage.clientWidth) return;
    if (isFitted) return fit();
    const fitted = fittedView();
    const width = Math.min(view.width, fitted.width);
    const height = width * (fitted.height / fitted.width);
    setView({ x: view.x + (view.width - width) / 2, y: view.y + (view.height - height) / 2, width });
  }).observe(stage);

  return {
    svg,
    show,
    fit,
    zoomAt,
    pan,
    showArea,
    setView,
    toImage,
    screenPerPixel,
    view: () => view,
    zoom: () => (scene ? fittedView().width / view.width : 1),
  };
}

// Number in the corner of a box, with constant screen size.
function drawNumber(shapes, stage, box, number, className = "") {
  const unit = 1 / stage.screenPerPixel();
  const width = (String(number).length * 8 + 12) * unit;
  const height = 20 * unit;
  const above = box.y_min - height - 2 * unit;
  const y = above >= stage.view().y ? above : box.y_max + 2 * unit;
  shapes.append(
    build("svg:g", { class: `hs-number ${className}` }, [
      build("svg:rect", { x: box.x_min, y, width, height, rx: 4 * unit }),
      build("svg:text", {
        x: box.x_min + width / 2,
        y: y + height * 0.72,
        "font-size": 13 * unit,
        "text-anchor": "middle",
        text: number,
      }),
    ]),
  );
}

const frameOf = (box) => ({ x: box.x_min, y: box.y_min, width: box.x_max - box.x_min, height: box.y_max - box.y_min });

// The scene of an answer of the server, with URLs of its copies.
function servedScene({ width, height, preview, detail }) {
  const copy = (found) => ({ url: addressOf(found.path), width: found.width });
  return { width, height, preview: copy(preview), detail: copy(detail) };
}

// Zoom and pan controls: arrow keys, + - f, wheel, drag, double click.
// viewer: from createImageViewer. isOn: whether there is an image. onKey: handles a key and returns whether it did.
// onClick: gets the clicked node. Returns the commands by key.
function addViewerControls(stage, viewer, { isOn, onKey = (_key) => false, onClick = (_node) => {} }) {
  const commands = {
    "+": () => viewer.zoomAt(1.4),
    "=": () => viewer.zoomAt(1.4),
    "-": () => viewer.zoomAt(1 / 1.4),
    f: viewer.fit,
    ArrowLeft: () => viewer.pan(-1, 0),
    ArrowRight: () => viewer.pan(1, 0),
    ArrowUp: () => viewer.pan(0, -1),
    ArrowDown: () => viewer.pan(0, 1),
  };
  let drag = null;

  stage.addEventListener("keydown", (event) => {
    if (!isOn() || hasModifier(event)) return;
    if (!onKey(event.key)) {
      if (!commands[event.key]) return;
      commands[event.key]();
    }
    event.preventDefault();
  });

  // Without focus on the image, the wheel scrolls the page.
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!isOn() || !(event.ctrlKey || stage.contains(document.activeElement))) return;
      event.preventDefault();
      viewer.zoomAt(Math.exp(-event.deltaY * 0.0015), viewer.toImage(event));
    },
    { passive: false },
  );

  stage.addEventListener("pointerdown", (event) => {
    if (!isOn() || event.button !== 0) return;
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, view: viewer.view(), moved: false, node: event.target };
  });

  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(dx, dy) > 3;
    if (!drag.moved) return;
    const unit = 1 / viewer.screenPerPixel();
    viewer.setView({ ...drag.view, x: drag.view.x - dx * unit, y: drag.view.y - dy * unit });
  });

  stage.addEventListener("pointerup", () => {
    if (drag && !drag.moved) onClick(drag.node);
    drag = null;
  });
  stage.addEventListener("pointercancel", () => {
    drag = null;
  });
  stage.addEventListener("dblclick", (event) => isOn() && viewer.zoomAt(2, viewer.toImage(event)));
  return commands;
}
