// The canvas: its state, the changes of the state, and drawing.

import { listenToUser } from "./input.js";
import { lookOf, overlaysOf, pairOf } from "./overlays.js";
import { element, drawPanel, drawToolbar, short, showWindow } from "./panel.js";
import { Scene, hasWebGL } from "./scene.js";
import { compose, save } from "./screenshot.js";
import { fitHeight, listen, report } from "./streamlit.js";
import { DIFFERENCE, Volumes, boxOf, indexOf, valueAt } from "./volumes.js";

const [toolbar, stage, panel, status, message] = ["toolbar", "stage", "panel", "status",
  "message"].map((id) => document.getElementById(id));
const volumes = new Volumes();
const state = { overlayOn: true };
let [layers, classes, initial, goTo, reporting, pictureName] = [[], [], {}, null, false, ""];
const views = []; // { holder, scene, caption }
const shown = { image: null, overlays: [], box: null };
let height; // of the frame, from Python
let reportTimer;
let losses = []; // times at which the graphics card was reset
let work = Promise.resolve();

const layerOf = (name) => layers.find((layer) => layer.name === name);
const filesOf = (list) => list.map((layer) => layer.file).join();

// Runs tasks one after another: no drawing begins while another waits for a file.
function queue(task) {
  work = work.then(task).catch((error) => showMessage(error.message));
  return work;
}

function showMessage(text) {
  message.textContent = text;
  stage.dataset.state = text ? "message" : "ready";
}

// ------------------------------------------------------------------ arguments from Python

function receive(args) {
  height = args.height;
  fitHeight(height);
  [reporting, pictureName] = [args.report, args.picture_name];
  if (!checkWebGL()) return;
  const filesChanged = filesOf(args.layers) !== filesOf(layers);
  const otherCase = !args.layers.some((layer) => layer.file === layerOf(state.image)?.file);
  [layers, classes] = [args.layers, args.classes];
  updateState(args.initial);
  if (filesChanged) volumes.keep(layers);
  const jump = args.go_to && String(args.go_to) !== String(goTo) ? args.go_to.slice(0, 3) : null;
  goTo = args.go_to;
  queue(async () => {
    await draw(otherCase);
    if (jump) moveTo(jump);
  });
  if (filesChanged) queue(() => void prefetch());
}

// Applies the initial settings that have changed since the last run; drops missing layers.
function updateState(settings) {
  for (const [field, value] of Object.entries(settings)) {
    if (JSON.stringify(initial[field]) !== JSON.stringify(value)) state[field] = value;
  }
  initial = settings;
  if (!layerOf(state.image)) state.image = layers.find((layer) => layer.kind === "image").name;
  if (!layerOf(state.overlay)) state.overlay = null;
  if (!pairOf(layers, state)) state.compare = "off";
}

// Returns whether there is WebGL 2; tests it, and reports that it is missing, only once.
let webgl;
function checkWebGL() {
  if (webgl === undefined) {
    webgl = hasWebGL();
    if (!webgl) {
      showMessage("This browser has no WebGL 2, which the canvas draws with.");
      stage.dataset.state = "unsupported";
      report({ webgl: false });
    }
  }
  return webgl;
}

// Fetches the other images and labels in advance; errors are shown when a layer is chosen.
async function prefetch() {
  for (const layer of layers) {
    if (layer.kind !== "scalar") await volumes.get(layer).catch(() => null);
  }
}

// ------------------------------------------------------------------ drawing

// Draws the state. `recentre` moves the crosshair to the middle of the brain.
async function draw(recentre = false) {
  const now = { ...state };
  stage.dataset.state = "loading";
  const image = await volumes.get(layerOf(now.image));
  const overlays = await overlaysOf({ layers, classes, volumes }, now, repaint);
  if (recentre || !shown.box) shown.box = boxOf(image);
  const before = views[0]?.scene.nv.volumes.length && !recentre ? views[0].scene.crosshair : null;
  await setViewCount(overlays.length);
  Object.assign(shown, { image, overlays });
  for (const [k, { scene, caption }] of views.entries()) {
    const { volume, title, kind } = overlays[k];
    scene.setVolumes(image, volume, shown.box);
    scene.setLook(lookOf(now, kind));
    caption.textContent = title;
    if (before) scene.crosshair = before;
  }
  if (!before) centreCrosshair();
  drawControls();
  redraw();
  showMessage("");
}

// Opens or closes canvases until there are `count`.
async function setViewCount(count) {
  while (views.length > count) {
    const { holder, scene } = views.pop();
    scene.close();
    holder.remove();
  }
  while (views.length < count) {
    const caption = element("div", { className: "caption" });
    const holder = element("div", { className: "view" });
    stage.append(holder);
    const scene = await Scene.open(holder, moved, lost);
    holder.append(caption);
    views.push({ holder, scene, caption });
  }
}

// Replaces the canvases after a reset of the graphics card; the volumes are still in memory.
function lost(event) {
  event.preventDefault();
  const crosshair = views[0]?.scene.crosshair;
  losses = [...losses.filter((time) => Date.now() - time < 60000), Date.now()];
  if (losses.length > 4) {
    showMessage("The graphics card keeps failing. Reload the page.");
    return;
  }
  showMessage("The graphics card was reset. Drawing again…");
  queue(async () => {
    await setViewCount(0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await draw();
    if (crosshair) moveTo(crosshair);
  });
}

function repaint(volume) {
  for (const { scene } of views) scene.refresh(volume);
}

function redraw() {
  for (const { scene } of views) scene.draw();
  showStatus();
}

// Rebuilds the controls; the one that had the focus keeps it.
function drawControls() {
  const active = document.activeElement?.dataset;
  const selector = Object.entries(active ?? {}).map(([key, value]) => `[data-${key}="${value}"]`)
    .join("");
  drawToolbar(toolbar, { state, change, act });
  drawPanel(panel, { state, layers, classes, pair: pairOf(layers, state), change, act,
    windows: { image: windowOf(shown.image), overlay: windowOf(shown.overlays[0]?.volume) } });
  if (selector) document.querySelector(selector)?.focus();
}

function windowOf(volume) {
  return volume?.window && { ...volume.window, now: [volume.cal_min, volume.cal_max] };
}

// ------------------------------------------------------------------ changes by the user

// Changes the state. `whole` = false if only the look of the slices changes.
function change(fields, whole = true) {
  Object.assign(state, fields);
  if (whole) {
    queue(() => draw());
  } else {
    views.forEach(({ scene }, k) => scene.setLook(lookOf(state, shown.overlays[k].kind)));
    redraw();
  }
}

function setWindow(which, [low, high]) {
  const volume = which === "image" ? shown.image : shown.overlays[0].volume;
  [volume.cal_min, volume.cal_max] = [low, high];
  showWindow(panel, which, [low, high]);
  cancelAnimationFrame(setWindow.frame);
  setWindow.frame = requestAnimationFrame(() => {
    repaint(volume);
    redraw();
  });
}

const act = {
  window: setWindow,
  resetWindow(which) {
    const volume = which === "image" ? shown.image : shown.overlays[0].volume;
    setWindow(which, volume.window.auto);
  },
  fit() {
    for (const { scene } of views) scene.fit();
    redraw();
  },
  screenshot() {
    redraw();
    for (const { scene } of views) scene.drawNow();
    const pictures = views.map(({ scene, caption }) => ({ canvas: scene.canvas,
      caption: caption.textContent }));
    const line = Array.from(status.children, (part) => part.textContent).join("  ·  ");
    save(compose(pictures, legendEntries(), line), `${pictureName}_${state.image}.png`);
  },
};

function legendEntries() {
  if (state.compare === "difference") return DIFFERENCE;
  const labels = shown.overlays.some(({ volume, kind }) => volume && kind === "labels");
  return labels ? classes.filter(({ id }) => !state.hidden.includes(id)) : [];
}

function moveTo(mm) {
  for (const { scene } of views) scene.crosshair = mm;
  redraw();
}

function centreCrosshair() {
  const volume = shown.image;
  const centre = shown.box.map(([low, high], axis) => ((low + high) / 2 + 0.5)
    / volume.dimsRAS[axis + 1]);
  for (const { scene } of views) scene.nv.scene.crosshairPos = centre.slice();
}

// Updates the other canvas and the status line after the crosshair of `scene` has moved.
function moved(scene) {
  follow(scene);
  showStatus();
  if (!reporting) return;
  clearTimeout(reportTimer);
  reportTimer = setTimeout(() => report({ mm: scene.crosshair, values: values(scene.crosshair) }),
    300);
}

function follow(scene) {
  for (const view of views) {
    if (view.scene !== scene) view.scene.follow(scene);
  }
}

// Returns {layer name: value} of the displayed layers at RAS millimetres.
function values(mm) {
  const byLayer = { [state.image]: valueAt(shown.image, mm) };
  for (const { layer, volume } of shown.overlays) {
    if (layer && volume) byLayer[layer.name] = valueAt(volume, mm);
  }
  if (state.compare === "difference") {
    byLayer.difference = valueAt(shown.overlays[0].volume, mm);
  }
  return byLayer;
}

// Shows position and values at the crosshair in the status line.
function showStatus() {
  if (!shown.image || !views.length) return;
  const mm = views[0].scene.crosshair;
  const parts = [
    ["voxel", `(${indexOf(shown.image, mm).join(", ")})`],
    ["RAS", `${mm.map((part) => part.toFixed(1)).join(", ")} mm`],
  ];
  for (const [name, value] of Object.entries(values(mm))) {
    const layer = layerOf(name);
    const names = name === "difference" ? DIFFERENCE : layer.kind === "labels" ? classes : null;
    parts.push([layer?.title ?? "Difference", names
      ? names.find(({ id }) => id === value)?.name ?? "none" : short(value)]);
  }
  status.replaceChildren(...parts.map(([name, value]) => element("span", {}, `${name} `,
    element("b", {}, value))));
}

listenToUser(stage, {
  views: () => views.map(({ scene }) => scene), classes: () => classes, image: () => shown.image,
  state, change, setWindow, follow,
});
window.addEventListener("resize", () => fitHeight(height));
listen(receive);
