// The canvas: state, what changes it, and what is drawn of it.

import { listenToReader } from "./input.js";
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
let views = []; // { holder, scene, caption }
let shown = { image: null, overlays: [], box: null };
let reportTimer;
let losses = [];
let work = Promise.resolve();

const layerOf = (name) => layers.find((layer) => layer.name === name);

// Drawings follow one another: none begins while another waits for a file.
function queue(task) {
  work = work.then(task).catch((error) => say(error.message));
  return work;
}

function say(text) {
  message.textContent = text;
  stage.dataset.state = text ? "message" : "ready";
}

// ------------------------------------------------------------------ what Python sends

function receive(args) {
  fitHeight(args.height);
  [reporting, pictureName] = [args.report, args.picture_name];
  window.onresize = () => fitHeight(args.height);
  if (!hasWebGLOnce()) return;
  const files = (list) => list.map((layer) => layer.file).join();
  const fresh = files(args.layers) !== files(layers);
  const firstImage = args.layers.find((layer) => layer.kind === "image");
  const otherCase = !args.layers.some((layer) => layer.file === layerOf(state.image)?.file);
  [layers, classes] = [args.layers, args.classes];
  for (const [field, value] of Object.entries(args.initial)) {
    if (JSON.stringify(initial[field]) !== JSON.stringify(value)) state[field] = value;
  }
  initial = args.initial;
  if (!layerOf(state.image)) state.image = firstImage.name;
  if (!layerOf(state.overlay)) state.overlay = null;
  if (!pairOf(layers, state)) state.compare = "off";
  if (fresh) volumes.keep(layers);
  const jump = args.go_to && String(args.go_to) !== String(goTo) ? args.go_to.slice(0, 3) : null;
  goTo = args.go_to;
  queue(async () => {
    await draw(otherCase);
    if (jump) moveTo(jump);
  });
  if (fresh) queue(() => void prefetch());
}

let webgl;
function hasWebGLOnce() {
  if (webgl === undefined) {
    webgl = hasWebGL();
    if (!webgl) {
      say("This browser has no WebGL 2, which the canvas draws with.");
      stage.dataset.state = "unsupported";
      report({ webgl: false });
    }
  }
  return webgl;
}

// Fetches what the reader is likely to want next; what fails is said when it is wanted.
async function prefetch() {
  for (const layer of layers) {
    if (layer.kind !== "scalar") await volumes.get(layer).catch(() => null);
  }
}

// ------------------------------------------------------------------ drawing

// Draws the state anew; `recentre` puts the crosshair into the middle of the brain.
async function draw(recentre = false) {
  const now = { ...state };
  stage.dataset.state = "loading";
  const image = await volumes.get(layerOf(now.image));
  const overlays = await overlaysOf({ layers, classes, volumes }, now, repaint);
  if (recentre || !shown.box) shown.box = boxOf(image);
  const before = views[0]?.scene.nv.volumes.length && !recentre ? views[0].scene.crosshair : null;
  await haveViews(overlays.length);
  Object.assign(shown, { image, overlays });
  for (const [k, { scene, caption }] of views.entries()) {
    const { volume, title, kind } = overlays[k];
    scene.setVolumes(image, volume, shown.box);
    scene.setLook(lookOf(now, kind));
    caption.textContent = title;
    if (before) scene.crosshair = before;
  }
  if (!before) middle();
  controls();
  redraw();
  say("");
}

async function haveViews(count) {
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

// The graphics card was reset: new canvases, from the volumes still in memory.
function lost(event) {
  event.preventDefault();
  const place = views[0]?.scene.crosshair;
  losses = [...losses.filter((time) => Date.now() - time < 60000), Date.now()];
  if (losses.length > 4) {
    say("The graphics card keeps failing. Reload the page.");
    return;
  }
  say("The graphics card was reset. Drawing again…");
  queue(async () => {
    await haveViews(0);
    await new Promise((done) => setTimeout(done, 300));
    await draw();
    if (place) moveTo(place);
  });
}

function repaint(volume) {
  for (const { scene } of views) scene.refresh(volume);
}

function redraw() {
  for (const { scene } of views) scene.draw();
  locate();
}

function controls() {
  const windowOf = (volume) => volume?.window && { ...volume.window,
    now: [volume.cal_min, volume.cal_max] };
  const active = document.activeElement?.dataset;
  const again = Object.entries(active ?? {}).map(([key, value]) => `[data-${key}="${value}"]`)
    .join("");
  drawToolbar(toolbar, { state, change, act });
  drawPanel(panel, { state, layers, classes, pair: pairOf(layers, state), change, act,
    windows: { image: windowOf(shown.image), overlay: windowOf(shown.overlays[0]?.volume) } });
  if (again) document.querySelector(again)?.focus();
}

// ------------------------------------------------------------------ what the reader does

// Takes a change of the state; `whole` = false where only the look of the slices changes.
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
    const legend = state.compare === "difference" ? DIFFERENCE
      : shown.overlays.some(({ volume, kind }) => volume && kind === "labels")
        ? classes.filter(({ id }) => !state.hidden.includes(id)) : [];
    const pictures = views.map(({ scene, caption }) => ({ canvas: scene.canvas,
      caption: caption.textContent }));
    const line = Array.from(status.children, (part) => part.textContent).join("  ·  ");
    save(compose(pictures, legend, line), `${pictureName}_${state.image}.png`);
  },
};

function moveTo(mm) {
  for (const { scene } of views) scene.crosshair = mm;
  redraw();
}

function middle() {
  const volume = shown.image;
  const centre = shown.box.map(([low, high], axis) => ((low + high) / 2 + 0.5)
    / volume.dimsRAS[axis + 1]);
  for (const { scene } of views) scene.nv.scene.crosshairPos = centre.slice();
}

// The crosshair of `scene` has moved: the other canvas and the status line follow.
function moved(scene) {
  follow(scene);
  locate();
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

function values(mm) {
  const found = { [state.image]: valueAt(shown.image, mm) };
  for (const { layer, volume } of shown.overlays) {
    if (layer && volume) found[layer.name] = valueAt(volume, mm);
  }
  if (state.compare === "difference") {
    found.difference = valueAt(shown.overlays[0].volume, mm);
  }
  return found;
}

function locate() {
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

listenToReader(stage, {
  views: () => views.map(({ scene }) => scene), classes: () => classes, image: () => shown.image,
  state, change, setWindow, follow,
});
listen(receive);
