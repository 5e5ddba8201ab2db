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
// What the canvases show. It lags behind `layers` and `state` while files are fetched, and whatever
// describes the picture reads it, because pointer and keys do not wait.
const shown = { layer: null, image: null, overlays: [], box: null, classes: [], compare: "off" };
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

// Fetches the other images and labels in advance; errors are shown when a layer is chosen. Stops when
// Python sends other files: it no longer serves these.
async function prefetch() {
  const [wanted, files] = [layers, filesOf(layers)];
  for (const layer of wanted) {
    if (filesOf(layers) !== files) return;
    if (layer.kind !== "scalar") await volumes.get(layer).catch(() => null);
  }
}

// ------------------------------------------------------------------ drawing

// Draws the state. `recentre` moves the crosshair to the middle of the brain.
async function draw(recentre = false) {
  // Python may send another case while this one's files are fetched.
  const [now, source] = [{ ...state }, { layers, classes, volumes }];
  stage.dataset.state = "loading";
  const layer = layerOf(now.image);
  const image = await volumes.get(layer);
  const overlays = await overlaysOf(source, now, repaint);
  if (recentre || !shown.box) shown.box = boxOf(image);
  const before = views[0]?.scene.ready && !recentre ? views[0].scene.crosshair : null;
  await setViewCount(overlays.length);
  Object.assign(shown, { layer, image, overlays, classes: source.classes, compare: now.compare });
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
  const crosshair = views[0]?.scene.ready ? views[0].scene.crosshair : null;
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
    views.forEach(({ scene }, k) => scene.setLook(lookOf(state, shown.overlays[k]?.kind)));
    redraw();
  }
}

function windowed(which) {
  return which === "image" ? shown.image : shown.overlays[0]?.volume;
}

function setWindow(which, [low, high]) {
  const volume = windowed(which);
  if (!volume) return;
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
    const automatic = windowed(which)?.window.auto;
    if (automatic) setWindow(which, automatic);
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
    save(compose(pictures, legendEntries(), line), `${pictureName}_${shown.layer.name}.png`);
  },
};

function legendEntries() {
  if (shown.compare === "difference") return DIFFERENCE;
  const labels = shown.overlays.some(({ volume, kind }) => volume && kind === "labels");
  return labels ? shown.classes.filter(({ id }) => !state.hidden.includes(id)) : [];
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
  if (!scene.ready) return;
  follow(scene);
  showStatus();
  if (!reporting) return;
  clearTimeout(reportTimer);
  reportTimer = setTimeout(() => {
    if (scene.ready) report({ mm: scene.crosshair, values: values(scene.crosshair) });
  }, 300);
}

function follow(scene) {
  for (const view of views) {
    if (view.scene !== scene) view.scene.follow(scene);
  }
}

// Returns [{ name, title, value, entries }] of the displayed layers at RAS millimetres; `entries`
// are the names of a label's values, or null.
function readings(mm) {
  const rows = [{ ...shown.layer, value: valueAt(shown.image, mm), entries: null }];
  for (const { layer, volume, kind } of shown.overlays) {
    if (!volume) continue;
    const named = layer ? { name: layer.name, title: layer.title,
      entries: kind === "labels" ? shown.classes : null }
      : { name: "difference", title: "Difference", entries: DIFFERENCE };
    rows.push({ ...named, value: valueAt(volume, mm) });
  }
  return rows;
}

function values(mm) {
  return Object.fromEntries(readings(mm).map(({ name, value }) => [name, value]));
}

// Shows position and values at the crosshair in the status line.
function showStatus() {
  if (!views[0]?.scene.ready) return;
  const mm = views[0].scene.crosshair;
  const parts = [
    ["voxel", `(${indexOf(shown.image, mm).join(", ")})`],
    ["RAS", `${mm.map((part) => part.toFixed(1)).join(", ")} mm`],
  ];
  for (const { title, value, entries } of readings(mm)) {
    parts.push([title, entries ? entries.find(({ id }) => id === value)?.name ?? "none"
      : short(value)]);
  }
  status.replaceChildren(...parts.map(([name, value]) => element("span", {}, `${name} `,
    element("b", {}, value))));
}

listenToUser(stage, {
  views: () => views.map(({ scene }) => scene).filter((scene) => scene.ready),
  classes: () => shown.classes, image: () => shown.image,
  state, change, setWindow, follow,
});
window.addEventListener("resize", () => fitHeight(height));
listen(receive);
