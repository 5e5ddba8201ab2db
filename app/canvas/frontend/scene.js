// One WebGL canvas: NiiVue with layouts, a field of view and a slice shader of our own.

import { boundsOf, fillTiles, insetLetters, replaceDrawing, replaceVolumes, setCrosshairWidth,
  setOverlayUniforms, setTiles } from "./niivue_private.js";

const [AXIAL, CORONAL, SAGITTAL, RENDER] = [0, 1, 2, 4];
const GAP = 0.002;
const RENDERED_OPACITY = 0.45; // of the image in the 3-D rendering: labels shine through

// Tiles [slice type, left, top, width, height] as fractions of the canvas.
const LAYOUTS = {
  planes: [[AXIAL, 0, 0, 0.5, 0.5], [CORONAL, 0.5, 0, 0.5, 0.5],
    [SAGITTAL, 0, 0.5, 0.5, 0.5], [RENDER, 0.5, 0.5, 0.5, 0.5]],
  large: [[AXIAL, 0, 0, 0.6, 1], [CORONAL, 0.6, 0, 0.4, 1 / 3],
    [SAGITTAL, 0.6, 1 / 3, 0.4, 1 / 3], [RENDER, 0.6, 2 / 3, 0.4, 1 / 3]],
  // "planes" for two canvases side by side, each taller than wide.
  tall: [[AXIAL, 0, 0, 1, 0.5], [CORONAL, 0, 0.5, 0.5, 0.25], [SAGITTAL, 0.5, 0.5, 0.5, 0.25],
    [RENDER, 0, 0.75, 1, 0.25]],
  axial: [[AXIAL, 0, 0, 1, 1]],
  coronal: [[CORONAL, 0, 0, 1, 1]],
  sagittal: [[SAGITTAL, 0, 0, 1, 1]],
  render: [[RENDER, 0, 0, 1, 1]],
};
// The world's axes along a plane's columns, rows and normal.
const AXES = { [AXIAL]: [0, 1, 2], [CORONAL]: [0, 2, 1], [SAGITTAL]: [1, 2, 0] };

// Draws labels from the nearest voxel of each screen pixel: sharp edges, and contours of a fixed
// width in pixels. overlayOutlineWidth is the width of the contour in pixels, 0 for none, negative
// for a scalar; overlayAlphaShader is the opacity of the fill. Each uniform needs a declaration of
// its own, because NiiVue finds only the first name in a declaration.
const SLICE_SHADER = `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform float overlayOutlineWidth;
uniform float overlayAlphaShader;
uniform float overlays;
in vec3 texPos;
out vec4 color;
vec4 label(vec3 position) {
  ivec3 size = textureSize(overlay, 0);
  return texelFetch(overlay, clamp(ivec3(position * vec3(size)), ivec3(0), size - 1), 0);
}
void main() {
  color = vec4(texture(volume, texPos).rgb, 1.0);
  if (overlays < 0.5) return;
  if (overlayOutlineWidth < 0.0) {
    vec4 scalar = texture(overlay, texPos);
    color.rgb = mix(color.rgb, scalar.rgb, scalar.a * overlayAlphaShader);
    return;
  }
  vec4 here = label(texPos);
  if (here.a == 0.0) return;
  float cover = overlayAlphaShader;
  if (overlayOutlineWidth > 0.0) {
    vec3 right = dFdx(texPos) * overlayOutlineWidth, up = dFdy(texPos) * overlayOutlineWidth;
    if (label(texPos + right) != here || label(texPos - right) != here ||
        label(texPos + up) != here || label(texPos - up) != here) cover = 1.0;
  }
  color.rgb = mix(color.rgb, here.rgb, cover);
}`;

const OPTIONS = {
  logLevel: "error", loadingText: "", backColor: [0, 0, 0, 1], crosshairGap: 12,
  crosshairWidthUnit: "mm", crosshairColor: [0.56, 0.83, 1, 0.6], show3Dcrosshair: true,
  fontColor: [1, 1, 1, 1], fontMinPx: 15, showAllOrientationMarkers: true,
  sagittalNoseLeft: true, isRadiologicalConvention: true, dragAndDropEnabled: false,
  isOrientCube: true, dragMode: niivue.DRAG_MODE.none, viewModeHotKey: "", clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
};

export function hasWebGL() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

export class Scene {
  // Opens a canvas in `holder`. Calls moved(scene) after each change of the crosshair, and
  // lost(event) if the graphics card is reset.
  static async open(holder, moved, lost) {
    const scene = new Scene();
    const canvas = document.createElement("canvas");
    holder.append(canvas);
    const nv = new niivue.Niivue(OPTIONS);
    Object.assign(scene, { holder, canvas, nv, layout: "planes", box: null, lost });
    await nv.attachToCanvas(canvas, false);
    nv.setCustomSliceShader(SLICE_SHADER);
    nv.onLocationChange = () => moved(scene);
    scene.paint = replaceDrawing(nv, () => {
      scene.frame ??= requestAnimationFrame(() => scene.drawNow());
    });
    fillTiles(nv, (whole, plane) => scene.field(whole, plane));
    insetLetters(nv);
    scene.fit();
    canvas.addEventListener("webglcontextlost", lost);
    return scene;
  }

  // Whether there is a volume: NiiVue computes no position without one.
  get ready() {
    return this.nv.volumes.length > 0;
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.canvas.removeEventListener("webglcontextlost", this.lost);
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.remove();
  }

  // Shows `image` under `overlay`, two NVImages; `overlay` may be null.
  setVolumes(image, overlay, box) {
    const { nv } = this;
    const [below, above] = nv.volumes;
    this.box = box;
    if (image === below && overlay === (above ?? null)) return;
    image.opacity = RENDERED_OPACITY;
    replaceVolumes(nv, overlay ? [image, overlay] : [image], image === below && overlay ? 1 : 0);
  }

  // Uploads the changed colours or window of a volume.
  refresh(volume) {
    const layer = this.nv.volumes.indexOf(volume);
    if (layer >= 0) this.nv.refreshLayers(volume, layer);
  }

  setLook({ layout, neurological, outline, cover }) {
    const { nv } = this;
    nv.opts.isRadiologicalConvention = !neurological;
    setOverlayUniforms(nv, outline, cover);
    this.layout = layout;
    this.drawFrames(LAYOUTS[layout]);
    setTiles(nv, LAYOUTS[layout].map(([plane, left, top, width, height]) => ({
      sliceType: plane,
      position: [left, top, width - (left + width < 1 ? GAP : 0),
        height - (top + height < 1 ? GAP : 0)],
    })));
  }

  // Draws the lines between the tiles.
  drawFrames(tiles) {
    for (const frame of this.holder.querySelectorAll(".tile")) frame.remove();
    this.holder.style.setProperty("--first-tile", tiles[0][3]);
    for (const [, left, top, width, height] of tiles) {
      const frame = document.createElement("i");
      frame.className = "tile";
      Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`,
        width: `${100 * width}%`, height: `${100 * height}%` });
      this.holder.append(frame);
    }
  }

  // Draws a requested frame without waiting for the browser.
  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.paint();
  }

  // Requests a frame.
  draw() {
    const { nv } = this;
    const tiles = LAYOUTS[this.layout].filter(([plane]) => plane in AXES);
    if (tiles.length && nv.volumes.length && this.box) {
      // About one pixel, at any zoom.
      const { length } = this.brain();
      const scale = Math.max(...tiles.map((tile) => this.scaleOf(tile, length)));
      setCrosshairWidth(nv, 1.2 / scale / nv.scene.pan2Dxyzmm[3]);
    }
    nv.drawScene();
  }

  // The middle and the side lengths of the box around the brain, in NiiVue's millimetres.
  brain() {
    const { low, high, size } = boundsOf(this.nv.volumes[0]);
    const at = (axis, voxel) => low[axis] + (high[axis] - low[axis]) * voxel / size[axis];
    const ends = this.box.map(([first, last], axis) => [at(axis, first), at(axis, last + 1)]);
    return { middle: ends.map(([from, to]) => (from + to) / 2),
      length: ends.map(([from, to]) => 1.08 * (to - from)) };
  }

  // Pixels per millimetre in a tile. Tiles of full height have their own scale; the others of a
  // canvas share one.
  scaleOf([plane, , , width, height], length) {
    const side = Math.max(...length);
    const [across, up] = AXES[plane];
    const [needX, needY] = height === 1 ? [length[across], length[up]] : [side, side];
    return Math.min(width * this.canvas.width / needX, height * this.canvas.height / needY);
  }

  // The part of a plane that its tile shows: the box around the brain, extended to the tile.
  field(whole, plane) {
    const tile = LAYOUTS[this.layout].find(([kind]) => kind === plane);
    if (!this.box || !tile) return whole;
    const { middle, length } = this.brain();
    const scale = this.scaleOf(tile, length);
    const sides = [tile[3] * this.canvas.width / scale, tile[4] * this.canvas.height / scale];
    for (const [n, millimetres] of sides.entries()) {
      const centre = middle[AXES[plane][n]];
      whole.mnMM[n] = centre - millimetres / 2;
      whole.mxMM[n] = centre + millimetres / 2;
      whole.fovMM[n] = millimetres;
    }
    return whole;
  }

  // RAS millimetres.
  get crosshair() {
    return Array.from(this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)).slice(0, 3);
  }

  set crosshair(mm) {
    const inside = Array.from(this.nv.mm2frac(mm, 0, true), (part) => Math.min(Math.max(part, 0),
      1));
    this.nv.scene.crosshairPos = inside;
  }

  // Copies crosshair, zoom and rotation of another canvas.
  follow(other) {
    const [mine, its] = [this.nv.scene, other.nv.scene];
    mine.crosshairPos = its.crosshairPos.slice();
    mine.pan2Dxyzmm = its.pan2Dxyzmm.slice();
    mine.renderAzimuth = its.renderAzimuth;
    mine.renderElevation = its.renderElevation;
    mine.volScaleMultiplier = its.volScaleMultiplier;
    this.draw();
  }

  // The slice type of the tile under the pointer: 0 axial, 1 coronal, 2 sagittal, 4 rendering.
  planeAt(event) {
    const frame = this.canvas.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width;
    const y = (event.clientY - frame.top) / frame.height;
    const tile = LAYOUTS[this.layout].find(([, left, top, width, height]) => x >= left
      && x < left + width && y >= top && y < top + height);
    return tile?.[0];
  }

  // Moves the crosshair by `count` slices of `plane`, or of the layout's first plane.
  step(plane, count) {
    const planes = LAYOUTS[this.layout].map(([kind]) => kind);
    const chosen = planes.includes(plane) && plane in AXES ? plane : planes[0];
    if (!(chosen in AXES)) return;
    const move = [0, 0, 0];
    move[AXES[chosen][2]] = count;
    this.nv.moveCrosshairInVox(...move);
  }

  // Zooms the planes by `factor` around the crosshair.
  zoom(factor) {
    const { nv } = this;
    const [x, y, z, before] = nv.scene.pan2Dxyzmm;
    const after = Math.min(Math.max(before * factor, 1), 12);
    const { low, high } = boundsOf(nv.volumes[0]);
    const fixed = Array.from(nv.scene.crosshairPos, (part, axis) => low[axis]
      + part * (high[axis] - low[axis]));
    const pan = after === 1 ? [0, 0, 0]
      : [x, y, z].map((value, axis) => value + fixed[axis] * (before - after));
    nv.scene.pan2Dxyzmm = [...pan, after];
  }

  // Resets zoom and rotation.
  fit() {
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.nv.scene.volScaleMultiplier = 1.35;
    this.nv.scene.renderAzimuth = 110;
    this.nv.scene.renderElevation = 10;
  }
}
