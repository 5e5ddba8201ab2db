// Keys, wheel and mouse buttons on the stage, beyond those that NiiVue itself listens to.

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10,
  PageDown: -10 };

// `host`: what the page is made of; views(), classes() and image() give the present ones.
export function listenToReader(stage, host) {
  let plane; // under the pointer: the keys step its slices
  const sceneOf = (event) => host.views().find((scene) => scene.canvas === event.target);

  // First of all listeners: NiiVue's own keys would act too.
  document.addEventListener("keydown", (event) => {
    if (actOnKey(event, host, plane)) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, true);

  // NiiVue would draw again what the key has drawn.
  document.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);

  // After a click on a control the keys belong to the canvas again.
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
    setTimeout(() => host.follow(scene)); // when NiiVue has acted
  }, { capture: true, passive: false });
  stage.addEventListener("dblclick", (event) => {
    event.stopPropagation();
    host.setWindow("image", host.image().window.auto);
  }, true);
  stage.addEventListener("mousedown", (event) => {
    if (!sceneOf(event) || event.button !== 2) return;
    event.stopPropagation();
    dragWindow(event, host);
  }, true);
}

// Whether the key was one of ours.
function actOnKey(event, { views, classes, state, change }, plane) {
  const [scene] = views();
  if (!scene || event.ctrlKey || event.altKey || event.metaKey) return false;
  const entry = classes().find(({ id }) => String(id) === event.key);
  const control = ["BUTTON", "INPUT"].includes(event.target.tagName);
  if (event.key in STEPS && event.target.type !== "range") {
    scene.step(plane, STEPS[event.key]);
  } else if (entry) {
    const { hidden } = state;
    change({ hidden: hidden.includes(entry.id) ? hidden.filter((id) => id !== entry.id)
      : [...hidden, entry.id].sort() });
  } else if (event.key === " " && !control) {
    change({ overlayOn: !state.overlayOn });
  } else {
    return event.target.tagName === "CANVAS" && event.key !== "Tab";
  }
  return true;
}

// The right button: across changes the window's width, up and down its level.
function dragWindow(start, { image, setWindow }) {
  const { cal_min: low, cal_max: high, window: { whole } } = image();
  const perPixel = (whole[1] - whole[0]) / 600;
  const moving = (event) => {
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
