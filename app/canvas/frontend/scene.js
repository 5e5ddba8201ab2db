// One WebGL canvas: NiiVue with our layouts, our field of view and our slice shader.
/* global niivue */

const [AXIAL, CORONAL, SAGITTAL, RENDER] = [0, 1, 2, 4];
const GAP = 0.002;
const RENDERED_OPACITY = 0.45; // of the image in the 3-D rendering: labels shine through

// Tiles (slice type, left, top, width, height) in parts of the canvas.
const LAYOUTS = {
  planes: [[AXIAL, 0, 0, 0.5, 0.5], [CORONAL, 0.5, 0, 0.5, 0.5],
    [SAGITTAL, 0, 0.5, 0.5, 0.5], [RENDER, 0.5, 0.5, 0.5, 0.5]],
  large: [[AXIAL, 0, 0, 0.6, 1], [CORONAL, 0.6, 0, 0.4, 1 / 3],
    [SAGITTAL, 0.6, 1 / 3, 0.4, 1 / 3], [RENDER, 0.6, 2 / 3, 0.4, 1 / 3]],
  // "planes" of two canvases side by side, each higher than wide.
  tall: [[AXIAL, 0, 0, 1, 0.5], [CORONAL, 0, 0.5, 0.5, 0.25], [SAGITTAL, 0.5, 0.5, 0.5, 0.25],
    [RENDER, 0, 0.75, 1, 0.25]],
  axial: [[AXIAL, 0, 0, 1, 1]],
  coronal: [[CORONAL, 0, 0, 1, 1]],
  sagittal: [[SAGITTAL, 0, 0, 1, 1]],
  render: [[RENDER, 0, 0, 1, 1]],
};
// The world's axes along a plane's columns, rows and normal.
const AXES = { [AXIAL]: [0, 1, 2], [CORONAL]: [0, 2, 1], [SAGITTAL]: [1, 2, 0] };

// Labels are drawn per screen pixel from the nearest voxel: sharp edges, contours of a fixed
// width in pixels, in the plane of the slice. overlayOutlineWidth: the contour's width in pixels,
// 0 for none, negative for a scalar; overlayAlphaShader: opacity of the filling. NiiVue finds one
// uniform in a declaration.
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
vec4 label(vec3 place) {
  ivec3 size = textureSize(overlay, 0);
  return texelFetch(overlay, clamp(ivec3(place * vec3(size)), ivec3(0), size - 1), 0);
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

export function hasWebGL() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

export class Scene {
  // Opens a canvas in `holder`; moved(scene) follows every change of the crosshair.
  static async open(holder, moved, lost) {
    const scene = new Scene();
    const canvas = document.createElement("canvas");
    holder.append(canvas);
    const nv = new niivue.Niivue({
      logLevel: "error", loadingText: "", backColor: [0, 0, 0, 1], crosshairGap: 12,
      crosshairWidthUnit: "mm", crosshairColor: [0.56, 0.83, 1, 0.6], show3Dcrosshair: true,
      fontColor: [1, 1, 1, 1], fontMinPx: 15, showAllOrientationMarkers: true,
      sagittalNoseLeft: true, isRadiologicalConvention: true, dragAndDropEnabled: false,
      isOrientCube: true,
      dragMode: niivue.DRAG_MODE.none, viewModeHotKey: "", clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
    });
    Object.assign(scene, { holder, canvas, nv, layout: "planes", box: null, lost });
    await nv.attachToCanvas(canvas, false);
    nv.setCustomSliceShader(SLICE_SHADER);
    nv.onLocationChange = () => moved(scene);
    // Tiles are filled: NiiVue would keep the empty borders of the volume.
    nv.calculateWidthHeight = (plane, scale, width, height) => [width, height];
    // However many ask for it, a frame is drawn once: a rendering takes seconds where no graphics
    // card makes it.
    scene.paint = nv.drawScene.bind(nv);
    nv.drawScene = () => { scene.frame ??= requestAnimationFrame(() => scene.drawNow()); };
    const whole = nv.screenFieldOfViewExtendedVox.bind(nv);
    nv.screenFieldOfViewExtendedVox = (plane) => scene.field(whole(plane), plane);
    // Letters stand off the edges.
    const letters = nv.drawSliceOrientationText.bind(nv);
    nv.drawSliceOrientationText = ([left, top, width, height], plane, pad) => letters(
      [left + 5, top + 2, width - 10, height - 8], plane, pad);
    scene.fit();
    canvas.addEventListener("webglcontextlost", lost);
    return scene;
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.canvas.removeEventListener("webglcontextlost", this.lost);
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.remove();
  }

  // Shows `image` under `overlay` (or nothing); both are NVImages. An image that stays is not
  // laid again: its gradients, for the rendering, are most of the work.
  setVolumes(image, overlay, box) {
    const { nv } = this;
    const volumes = overlay ? [image, overlay] : [image];
    const [below, above] = nv.volumes;
    this.box = box;
    if (image === below && overlay === (above ?? null)) return;
    image.opacity = RENDERED_OPACITY;
    nv.volumes = volumes;
    nv.overlays = volumes.slice(1);
    nv.back = image;
    for (let k = image === below && overlay ? 1 : 0; k < volumes.length; k++) {
      nv.refreshLayers(volumes[k], k);
    }
    nv.furthestVertexFromOrigin = nv.volumeObject3D.furthestVertexFromOrigin;
  }

  refresh(volume) {
    const layer = this.nv.volumes.indexOf(volume);
    if (layer >= 0) this.nv.refreshLayers(volume, layer);
  }

  setLook({ layout, neurological, outline, cover }) {
    const { nv } = this;
    nv.opts.isRadiologicalConvention = !neurological;
    nv.overlayOutlineWidth = outline;
    nv.overlayAlphaShader = cover;
    this.layout = layout;
    this.frames(LAYOUTS[layout]);
    nv.customLayout = LAYOUTS[layout].map(([plane, left, top, width, height]) => ({
      sliceType: plane,
      position: [left, top, width - (left + width < 1 ? GAP : 0),
        height - (top + height < 1 ? GAP : 0)],
    }));
  }

  // Lines between the tiles.
  frames(tiles) {
    for (const old of this.holder.querySelectorAll(".tile")) old.remove();
    this.holder.style.setProperty("--first-tile", tiles[0][3]);
    for (const [, left, top, width, height] of tiles) {
      const frame = document.createElement("i");
      frame.className = "tile";
      Object.assign(frame.style, { left: `${100 * left}%`, top: `${100 * top}%`,
        width: `${100 * width}%`, height: `${100 * height}%` });
      this.holder.append(frame);
    }
  }

  drawNow() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.paint();
  }

  draw() {
    const { nv } = this;
    const tiles = LAYOUTS[this.layout].filter(([plane]) => plane in AXES);
    if (tiles.length && nv.volumes.length && this.box) {
      // About a pixel, however large a voxel is on the screen.
      const { length } = this.brain();
      const scale = Math.max(...tiles.map((tile) => this.scaleOf(tile, length)));
      const width = 1.2 / scale / nv.scene.pan2Dxyzmm[3];
      if (nv.opts.crosshairWidth !== width) {
        nv.opts.crosshairWidth = width;
        if (nv.crosshairs3D) nv.crosshairs3D.mm[0] = NaN; // made anew
      }
    }
    nv.drawScene();
  }

  // The middle and the lengths of the box around the brain, in NiiVue's millimetres.
  brain() {
    const [{ extentsMinOrtho: low, extentsMaxOrtho: high, dimsRAS }] = this.nv.volumes;
    const at = (axis, voxel) => low[axis] + (high[axis] - low[axis]) * voxel / dimsRAS[axis + 1];
    const ends = this.box.map(([first, last], axis) => [at(axis, first), at(axis, last + 1)]);
    return { middle: ends.map(([from, to]) => (from + to) / 2),
      length: ends.map(([from, to]) => 1.08 * (to - from)) };
  }

  // Pixels a millimetre in a tile. A tile of full height has a scale of its own; the others of a
  // canvas share one.
  scaleOf([plane, , , width, height], length) {
    const side = Math.max(...length);
    const [across, up] = AXES[plane];
    const [needX, needY] = height === 1 ? [length[across], length[up]] : [side, side];
    return Math.min(width * this.canvas.width / needX, height * this.canvas.height / needY);
  }

  // The part of a plane that its tile shows: the box around the brain, widened to the tile.
  field(whole, plane) {
    const tile = LAYOUTS[this.layout].find(([kind]) => kind === plane);
    if (!this.box || !tile) return whole;
    const { middle, length } = this.brain();
    const scale = this.scaleOf(tile, length);
    AXES[plane].slice(0, 2).forEach((axis, n) => {
      const millimetres = tile[3 + n] * (n ? this.canvas.height : this.canvas.width) / scale;
      whole.mnMM[n] = middle[axis] - millimetres / 2;
      whole.mxMM[n] = middle[axis] + millimetres / 2;
      whole.fovMM[n] = millimetres;
    });
    return whole;
  }

  get crosshair() {
    return Array.from(this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)).slice(0, 3);
  }

  set crosshair(mm) {
    const inside = Array.from(this.nv.mm2frac(mm, 0, true), (part) => Math.min(Math.max(part, 0),
      1));
    this.nv.scene.crosshairPos = inside;
  }

  // Follows another canvas: crosshair, zoom and rotation.
  follow(other) {
    const [mine, its] = [this.nv.scene, other.nv.scene];
    mine.crosshairPos = its.crosshairPos.slice();
    mine.pan2Dxyzmm = its.pan2Dxyzmm.slice();
    mine.renderAzimuth = its.renderAzimuth;
    mine.renderElevation = its.renderElevation;
    mine.volScaleMultiplier = its.volScaleMultiplier;
    this.draw();
  }

  // The plane (0 axial, 1 coronal, 2 sagittal, 4 rendering) under the pointer.
  planeAt(event) {
    const frame = this.canvas.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width;
    const y = (event.clientY - frame.top) / frame.height;
    const tile = LAYOUTS[this.layout].find(([, left, top, width, height]) => x >= left
      && x < left + width && y >= top && y < top + height);
    return tile?.[0];
  }

  // Steps `count` slices of `plane`, or of the layout's first plane.
  step(plane, count) {
    const planes = LAYOUTS[this.layout].map(([kind]) => kind);
    const chosen = planes.includes(plane) && plane in AXES ? plane : planes[0];
    if (!(chosen in AXES)) return;
    const move = [0, 0, 0];
    move[AXES[chosen][2]] = count;
    this.nv.moveCrosshairInVox(...move);
  }

  // Zooms the planes by `factor` about the crosshair.
  zoom(factor) {
    const { nv } = this;
    const [x, y, z, before] = nv.scene.pan2Dxyzmm;
    const after = Math.min(Math.max(before * factor, 1), 12);
    const [volume] = nv.volumes;
    const still = Array.from(nv.scene.crosshairPos, (part, axis) => volume.extentsMinOrtho[axis]
      + part * (volume.extentsMaxOrtho[axis] - volume.extentsMinOrtho[axis]));
    const pan = after === 1 ? [0, 0, 0]
      : [x, y, z].map((value, axis) => value + still[axis] * (before - after));
    nv.scene.pan2Dxyzmm = [...pan, after];
  }

  fit() {
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.nv.scene.volScaleMultiplier = 1.35;
    this.nv.scene.renderAzimuth = 110;
    this.nv.scene.renderElevation = 10;
  }
}
