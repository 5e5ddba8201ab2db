// Keys, wheel and mouse buttons on the stage, in addition to those that NiiVue handles.

import { toggled } from "./overlays.js";

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10,
  PageDown: -10 };

// `host` gives access to the page; views(), classes() and image() return the current ones.
export function listenToUser(stage, host) {
  let plane; // the plane under the pointer, whose slices the keys step through
  const sceneOf = (event) => host.views().find((scene) => scene.canvas === event.target);

  // In the capture phase, to come before NiiVue's own keys.
  document.addEventListener("keydown", (event) => {
    if (actOnKey(event, host, plane)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  // NiiVue would draw again after each key.
  document.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);

  // After a click on a control, the canvas has the keyboard again.
  document.addEventListener("pointerup", (event) => {
    if (event.target.closest("#toolbar, #panel") && event.target.type !== "range") {
      setTimeout(() => host.views()[0]?.canvas.focus());
    }
  });

  stage.addEventListener("pointermove", (event) => {
    const scene = sceneOf(event);
    if (scene && event.buttons) host.follow(scene);
    else if (scene) plane = scene.planeAt(event);
  });
  stage.addEventListener("wheel", (event) => {
    const scene = sceneOf(event);
    if (!scene) return;
    if (event.ctrlKey) {
      event.preventDefault();
      event.stopPropagation();
      scene.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
      scene.draw();
    }
    setTimeout(() => host.follow(scene)); // after NiiVue has handled the event
  }, { capture: true, passive: false });
  stage.addEventListener("dblclick", (event) => {
    event.stopPropagation();
    if (sceneOf(event)) host.setWindow("image", host.image().window.auto);
  }, true);
  stage.addEventListener("mousedown", (event) => {
    if (!sceneOf(event) || event.button !== 2) return;
    event.stopPropagation();
    dragWindow(event, host);
  }, true);
}

// Handles a key; returns whether it must not reach NiiVue.
function actOnKey(event, { views, classes, state, change }, plane) {
  const [scene] = views();
  if (!scene || event.ctrlKey || event.altKey || event.metaKey) return false;
  const entry = classes().find(({ id }) => String(id) === event.key);
  const control = ["BUTTON", "INPUT"].includes(event.target.tagName);
  if (event.key in STEPS && event.target.type !== "range") {
    scene.step(plane, STEPS[event.key]);
  } else if (entry) {
    change({ hidden: toggled(state.hidden, entry.id) });
  } else if (event.key === " " && !control) {
    change({ overlayOn: !state.overlayOn });
  } else {
    return event.target.tagName === "CANVAS" && event.key !== "Tab";
  }
  return true;
}

// Drag with the right button: horizontally changes the window's width, vertically its level.
function dragWindow(start, { image, setWindow }) {
  const volume = image();
  const { cal_min: low, cal_max: high, window: { whole } } = volume;
  const perPixel = (whole[1] - whole[0]) / 600;
  const moving = (event) => {
    if (image() !== volume) return; // another case is shown meanwhile
    const half = Math.max((high - low) / 2 + (event.clientX - start.clientX) * perPixel,
      perPixel);
    const level = (low + high) / 2 + (start.clientY - event.clientY) * perPixel;
    setWindow("image", [level - half, level + half]);
    event.stopPropagation();
  };
  window.addEventListener("mousemove", moving, true);
  window.addEventListener("mouseup", () => window.removeEventListener("mousemove", moving, true),
    { once: true, capture: true });
}
