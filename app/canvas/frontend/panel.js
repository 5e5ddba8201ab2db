// The controls. They are rebuilt from the state; each calls change(fields).

import { toggled } from "./overlays.js";
import { DIFFERENCE } from "./volumes.js";

const LAYOUTS = [["planes", "3 planes + 3-D"], ["large", "Axial large"], ["axial", "Axial"],
  ["coronal", "Coronal"], ["sagittal", "Sagittal"], ["render", "3-D"]];
const KEYS = `Click or drag: crosshair (3-D: rotate)
Wheel, arrows: one slice; PageUp, PageDown: ten
Ctrl + wheel: zoom around the crosshair
Right button: horizontally for the width, vertically for the level of the window
Double click: window back to automatic
Digits: classes; space: overlay on and off`;

export function element(tag, fields = {}, ...children) {
  const { data, ...properties } = fields;
  const created = Object.assign(document.createElement(tag), properties);
  Object.assign(created.dataset, data);
  created.append(...children);
  return created;
}

function choice(name, label, options, chosen, pick) {
  const buttons = options.map(([value, text, title]) => element("button", {
    type: "button", textContent: text, title: title ?? "", ariaPressed: String(value === chosen),
    data: { choice: name, value: value ?? "none" }, onclick: () => pick(value),
  }));
  return element("div", { className: "choice", role: "group", ariaLabel: label }, ...buttons);
}

function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children.filter(Boolean));
}

export function drawToolbar(holder, { state, change, act }) {
  const side = state.neurological ? "Neurological: R on the right" : "Radiological: R on the left";
  holder.replaceChildren(
    choice("layout", "Layout", LAYOUTS, state.layout, (layout) => change({ layout })),
    element("span", { className: "space" }),
    element("button", {
      type: "button", textContent: side, data: { action: "convention" },
      title: "Switch between radiological and neurological convention",
      onclick: () => change({ neurological: !state.neurological }),
    }),
    ...[["fit", "Fit", "Whole brain, window kept"],
      ["screenshot", "Save picture", "PNG of this view"]].map(([action, text, title]) => element(
      "button", { type: "button", textContent: text, title, data: { action },
        onclick: act[action] })),
    element("span", { className: "help", textContent: "?", title: KEYS, tabIndex: 0 }),
  );
}

export function drawPanel(holder, { state, layers, classes, pair, windows, change, act }) {
  const of = (...kinds) => layers.filter((layer) => kinds.includes(layer.kind));
  const overlay = layers.find((layer) => layer.name === state.overlay);
  const comparing = state.compare !== "off";
  const labels = comparing || overlay?.kind === "labels";
  holder.replaceChildren(...[
    section("Image", choice("image", "Image", of("image").map((layer) => [layer.name, layer.title]),
      state.image, (image) => change({ image })), windowSlider("image", windows.image, act)),
    of("labels", "scalar").length > 0 && section("Overlay",
      choice("overlay", "Overlay", [...of("labels", "scalar").map((layer) => [layer.name,
        layer.title]), [null, "None"]], comparing ? undefined : state.overlay,
      (name) => change({ overlay: name, compare: "off", overlayOn: true })),
      pair && choice("compare", "Compare with the truth", [["off", "Single"],
        ["side", "Side by side"], ["difference", "Difference"]], state.compare,
      (compare) => change({ compare, overlayOn: true }))),
    (labels || overlay) && section("Look",
      labels && choice("style", "Style", [["fill", "Fill"], ["contour", "Contour"],
        ["both", "Both"]], state.style, (style) => change({ style })),
      opacitySlider(state, change)),
    labels && section(state.compare === "difference" ? "Classes compared" : "Classes",
      ...classes.map((entry) => classRow(entry, state, change))),
    state.compare === "difference" && section("Difference", ...DIFFERENCE.map((entry) => element(
      "div", { className: "row", data: { difference: entry.name } }, swatch(entry.colour),
      element("b", {}, entry.name), element("span", {}, entry.title)))),
    !labels && overlay && windows.overlay && section(overlay.title, colourBar(windows.overlay),
      windowSlider("overlay", windows.overlay, act)),
  ].filter(Boolean));
}

function swatch(colour) {
  const square = element("i", { className: "swatch" });
  square.style.background = colour;
  return square;
}

function classRow(entry, state, change) {
  const box = element("input", {
    type: "checkbox", checked: !state.hidden.includes(entry.id), data: { class: entry.id },
    onchange: () => change({ hidden: toggled(state.hidden, entry.id) }),
  });
  return element("label", { className: "row", title: `Key ${entry.id}` }, box,
    swatch(entry.colour), element("b", {}, entry.name), element("span", {}, entry.title));
}

function opacitySlider(state, change) {
  const input = element("input", {
    type: "range", min: 0, max: 100, value: Math.round(state.opacity * 100),
    ariaLabel: "Opacity of the overlay", data: { slider: "opacity" },
  });
  const value = element("output", {}, `${input.value} %`);
  input.addEventListener("input", () => {
    value.textContent = `${input.value} %`;
    change({ opacity: input.value / 100 }, false);
  });
  return element("div", { className: "line" }, "Opacity", input, value);
}

// Two handles on one track, and a button that restores the automatic window.
function windowSlider(which, shown, act) {
  if (!shown) return null;
  const [least, most] = shown.whole;
  const ends = shown.now.map((value, end) => element("input", {
    type: "range", min: least, max: most, step: (most - least) / 500, value,
    ariaLabel: end ? "White" : "Black", data: { window: `${which}-${end}` },
  }));
  const numbers = element("output", { data: { numbers: which } }, range(shown.now));
  for (const [end, input] of ends.entries()) {
    input.addEventListener("input", () => {
      const now = ends.map((handle) => Number(handle.value));
      const gap = (most - least) / 250;
      if (now[1] - now[0] < gap) now[end] = end ? now[0] + gap : now[1] - gap;
      input.value = now[end];
      numbers.textContent = range(now);
      act.window(which, now);
    });
  }
  return element("div", { className: "window", data: { which } },
    element("div", { className: "ends" }, ...ends),
    element("div", { className: "line" }, which === "image" ? "Window" : "Shown", numbers,
      element("button", {
      type: "button", textContent: "Reset",
      title: which === "image" ? "Automatic window (double click)" : "Automatic range",
      data: { action: `reset-${which}` }, onclick: () => act.resetWindow(which),
    })));
}

// Updates the slider of a window after a drag on the canvas.
export function showWindow(holder, which, now) {
  now.forEach((value, end) => {
    const input = holder.querySelector(`[data-window="${which}-${end}"]`);
    if (input) input.value = value;
  });
  const numbers = holder.querySelector(`[data-numbers="${which}"]`);
  if (numbers) numbers.textContent = range(now);
  if (which === "overlay") {
    holder.querySelectorAll("[data-scale]").forEach((mark) => {
      mark.textContent = short(mark.dataset.scale * now[1]);
    });
  }
}

// Formats a number with about three significant digits.
export function short(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1) : value.toFixed(size >= 1 ? 2 : 3);
}

function range(now) {
  return `${short(now[0])} – ${short(now[1])}`;
}

function colourBar({ now }) {
  const table = niivue.cmapper.colormap("inferno");
  const stops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map((index) => {
    const [red, green, blue] = table.slice(index * 4, index * 4 + 3);
    return `rgb(${red} ${green} ${blue}) ${(index / 2.55).toFixed(0)}%`;
  });
  const bar = element("div", { className: "bar" });
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return element("div", {}, bar, element("div", { className: "line scale" },
    ...[0, 0.5, 1].map((part) => element("span", { data: { scale: part } },
      short(part * now[1])))));
}
