// Zoom and pan controls of an image viewer: arrow keys, + - f, wheel, drag, double click.

// viewer: from createImageViewer. isOn: whether there is an image. onKey: handles a key and returns whether it did.
// onClick: gets the clicked node. Returns the commands by key.
function addViewerControls(stage, viewer, { isOn, onKey = () => false, onClick = () => {} }) {
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
