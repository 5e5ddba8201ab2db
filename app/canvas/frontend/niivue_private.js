// All uses of NiiVue's private fields. They may change with any version of NiiVue: check each one
// below before changing the version in niivue/, then set CHECKED_VERSION.

export const CHECKED_VERSION = "0.69.0";

// Replaces drawScene, which NiiVue calls after each input, by requestDraw(). Returns the original.
// Without a graphics card a frame takes seconds, so that several requests must draw only once.
export function replaceDrawing(nv, requestDraw) {
  const draw = nv.drawScene.bind(nv);
  nv.drawScene = requestDraw;
  return draw;
}

// Lets slices fill their tiles. NiiVue would show the whole volume, with its empty borders, in the
// aspect ratio of the volume. fieldOfView(whole, plane) returns the part of the plane to show.
export function fillTiles(nv, fieldOfView) {
  nv.calculateWidthHeight = (plane, scale, width, height) => [width, height];
  const whole = nv.screenFieldOfViewExtendedVox.bind(nv);
  nv.screenFieldOfViewExtendedVox = (plane) => fieldOfView(whole(plane), plane);
}

// Moves the direction letters away from the edges of the tiles.
export function insetLetters(nv) {
  const letters = nv.drawSliceOrientationText.bind(nv);
  nv.drawSliceOrientationText = ([left, top, width, height], plane, pad) => letters(
    [left + 5, top + 2, width - 10, height - 8], plane, pad);
}

// Replaces the volumes. NiiVue's setter would also upload an unchanged image to the graphics card
// again: its gradients, for the rendering, are most of the work.
export function replaceVolumes(nv, volumes, firstChanged) {
  nv.volumes = volumes;
  nv.overlays = volumes.slice(1);
  nv.back = volumes[0];
  for (let layer = firstChanged; layer < volumes.length; layer++) {
    nv.refreshLayers(volumes[layer], layer);
  }
  nv.furthestVertexFromOrigin = nv.volumeObject3D.furthestVertexFromOrigin;
}

// Sets two uniforms of the slice shader. The public setters would draw at once.
export function setOverlayUniforms(nv, outline, cover) {
  nv.overlayOutlineWidth = outline;
  nv.overlayAlphaShader = cover;
}

// Sets the tiles. The public setter would draw at once.
export function setTiles(nv, tiles) {
  nv.customLayout = tiles;
}

// Sets the width of the crosshair in millimetres. NiiVue rebuilds the crosshair of the rendering
// only if its position changes, so the stored position is made invalid.
export function setCrosshairWidth(nv, width) {
  if (nv.opts.crosshairWidth === width) return;
  nv.opts.crosshairWidth = width;
  if (nv.crosshairs3D) nv.crosshairs3D.mm[0] = NaN;
}

// The corners of the volume in NiiVue's millimetres and its size in voxels. The public millimetres
// follow the affine, which the drawing of slices ignores.
export function boundsOf(volume) {
  const { extentsMinOrtho: low, extentsMaxOrtho: high, dimsRAS } = volume;
  return { low, high, size: dimsRAS.slice(1, 4) };
}
