// The overlays: a label map, a scalar, or two label maps compared.

import { DIFFERENCE } from "./volumes.js";

const CONTOUR = 1.6; // pixels

// Returns [prediction, truth], or null if one of them is missing.
export function pairOf(layers, state) {
  const named = (name) => layers.find((layer) => layer.name === name);
  const [truth, chosen] = [named("truth"), named(state.overlay)];
  const prediction = chosen?.kind === "labels" && chosen !== truth ? chosen
    : layers.find((layer) => layer.kind === "labels" && layer !== truth);
  return truth && prediction ? [prediction, truth] : null;
}

// Returns `hidden` without `id` if it contains it, else with it.
export function toggled(hidden, id) {
  return hidden.includes(id) ? hidden.filter((each) => each !== id) : [...hidden, id];
}

// Returns an entry { layer, volume, title, kind } for each canvas. Calls repaint(volume) if the
// colours or the opacity of a volume have changed.
export async function overlaysOf({ layers, classes, volumes }, state, repaint) {
  const pair = pairOf(layers, state);
  if (state.compare !== "off" && pair) {
    const [prediction, truth] = await Promise.all(pair.map((layer) => volumes.get(layer)));
    if (state.compare === "side") {
      return [prediction, truth].map((volume, k) => entryOf(pair[k],
        paint(volume, classes, state, repaint)));
    }
    const difference = volumes.compare(truth, prediction, state.hidden);
    return [{ volume: paint(difference, DIFFERENCE, { ...state, hidden: [] }, repaint),
      title: `${pair[0].title} against ${pair[1].title}`, kind: "labels" }];
  }
  const layer = layers.find(({ name }) => name === state.overlay);
  if (!layer) return [{ volume: null, title: "", kind: "labels" }];
  const volume = await volumes.get(layer);
  if (layer.kind === "labels") {
    paint(volume, classes, state, repaint);
  } else if (volume.opacity !== Number(state.overlayOn)) {
    volume.opacity = Number(state.overlayOn);
    repaint(volume);
  }
  return [entryOf(layer, volume)];
}

function entryOf(layer, volume) {
  return { layer, volume, title: layer.title, kind: layer.kind };
}

// Gives a label volume the colours of `entries`; hidden classes are transparent.
function paint(volume, entries, { hidden, overlayOn }, repaint) {
  const key = JSON.stringify([entries, hidden, overlayOn]);
  if (volume.paintedAs !== key) {
    const channel = (start) => [0, ...entries.map(({ colour }) => parseInt(
      colour.slice(start, start + 2), 16))];
    volume.setColormapLabel({
      R: channel(1), G: channel(3), B: channel(5), I: [0, ...entries.map(({ id }) => id)],
      A: [0, ...entries.map(({ id }) => (overlayOn && !hidden.includes(id) ? 255 : 0))],
    });
    volume.paintedAs = key;
    repaint(volume);
  }
  return volume;
}

// Returns the look of a canvas, for Scene.setLook.
export function lookOf({ layout, neurological, style, opacity, compare }, kind) {
  const look = { layout: layout === "planes" && compare === "side" ? "tall" : layout,
    neurological, outline: 0, cover: opacity };
  if (kind === "scalar") return { ...look, outline: -1 };
  if (style === "fill") return look;
  return { ...look, outline: CONTOUR * (window.devicePixelRatio || 1),
    cover: style === "both" ? opacity / 2 : 0 };
}
