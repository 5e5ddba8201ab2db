// Fetches volumes, computes their windows and the difference of two label maps.

const MEDIA = new URL("../../media/", window.location.href);
const SAMPLES = 300000;

export const DIFFERENCE = [
  { id: 1, name: "Agree", title: "same class in both", colour: "#e6edf3" },
  { id: 2, name: "Missed", title: "in the truth only", colour: "#ff4fa3" },
  { id: 3, name: "Extra", title: "in the prediction only", colour: "#22d3ee" },
  { id: 4, name: "Other class", title: "tumour in both", colour: "#ff9d2e" },
];

export class Volumes {
  constructor() {
    this.byFile = new Map();
    this.difference = { key: "", volume: null };
  }

  // Drops the volumes that are not among `layers`.
  keep(layers) {
    const files = new Set(layers.map((layer) => layer.file));
    for (const file of this.byFile.keys()) {
      if (!files.has(file)) this.byFile.delete(file);
    }
    this.difference = { key: "", volume: null };
  }

  // Returns a promise of the layer's NVImage; fetches its file at the first call.
  get(layer) {
    if (!this.byFile.has(layer.file)) {
      const loading = load(layer);
      loading.catch(() => this.byFile.delete(layer.file));
      this.byFile.set(layer.file, loading);
    }
    return this.byFile.get(layer.file);
  }

  // Returns a label volume with the ids of DIFFERENCE. Classes in `hidden` count as background.
  compare(truth, prediction, hidden) {
    const key = [truth.id, prediction.id, ...hidden].join();
    if (this.difference.key !== key) {
      if (truth.img.length !== prediction.img.length) {
        throw new Error("truth and prediction lie on different grids");
      }
      const volume = prediction.clone();
      volume.img = differenceOf(truth.img, prediction.img, hidden);
      this.difference = { key, volume };
    }
    return this.difference.volume;
  }
}

async function load(layer) {
  // Images of patients must not stay in the browser's cache on disk.
  const response = await fetch(new URL(layer.file, MEDIA), { cache: "no-store" });
  if (!response.ok) throw new Error(`${layer.title}: the server answered ${response.status}`);
  // The range 0 to 1 keeps NiiVue from computing one.
  const volume = await niivue.NVImage.new(await response.arrayBuffer(), `${layer.name}.nii.gz`,
    "", 1, null, 0, 1);
  if (layer.kind === "labels") {
    if (!(volume.img instanceof Uint8Array)) {
      volume.img = Uint8Array.from(volume.img);
      volume.hdr.datatypeCode = 2;
      volume.hdr.numBitsPerVoxel = 8;
    }
    volume.hdr.intent_code = 0; // else NiiVue's atlas shader blurs the edges of classes
  } else {
    prepareWindow(layer, volume);
  }
  return volume;
}

// Sets volume.window: `whole` is the range of the slider, `auto` the range shown at first.
function prepareWindow(layer, volume) {
  const values = sampleValues(volume);
  const at = (part) => values[Math.min(values.length - 1, Math.floor(part * values.length))] ?? 0;
  let auto = [at(0.01), at(0.995)]; // as grey_window of the report
  let whole = [Math.min(0, at(0)), at(1)];
  if (layer.kind === "scalar") {
    whole = layer.range ?? [0, at(1)];
    auto = [whole[0] + 0.05 * (whole[1] - whole[0]), whole[1]];
    volume.colormap = "inferno";
    volume.colormapType = 2; // the colours start at 0; values below the window are transparent
  }
  if (!(auto[1] > auto[0])) auto = [auto[0] - 1, auto[0] + 1];
  if (!(whole[1] > whole[0])) whole = auto;
  volume.window = { auto, whole };
  [volume.cal_min, volume.cal_max] = auto;
}

// A regular sample of the non-zero values, sorted.
function sampleValues({ img, hdr }) {
  const slope = hdr.scl_slope || 1;
  const step = Math.max(1, Math.floor(img.length / SAMPLES) | 1);
  const values = [];
  for (let k = 0; k < img.length; k += step) {
    if (img[k] !== 0 && Number.isFinite(img[k])) values.push(img[k] * slope + hdr.scl_inter);
  }
  values.sort((a, b) => a - b);
  return values;
}

function differenceOf(truth, prediction, hidden) {
  const shown = new Uint8Array(256).fill(1);
  shown[0] = 0;
  for (const id of hidden) shown[id] = 0;
  const difference = new Uint8Array(truth.length);
  for (let k = 0; k < truth.length; k++) {
    const inTruth = shown[truth[k]], inPrediction = shown[prediction[k]];
    if (inTruth && inPrediction) difference[k] = truth[k] === prediction[k] ? 1 : 4;
    else if (inTruth) difference[k] = 2;
    else if (inPrediction) difference[k] = 3;
  }
  return difference;
}

// Returns the RAS voxel ranges [[low, high], …] of the box around the non-zero voxels.
export function boxOf(volume) {
  const { img, hdr } = volume;
  const [nx, ny, nz] = hdr.dims.slice(1, 4);
  const low = [nx, ny, nz], high = [-1, -1, -1];
  const step = 2; // an error of one voxel does not matter
  for (let z = 0; z < nz; z += step) {
    for (let y = 0; y < ny; y += step) {
      const row = (z * ny + y) * nx;
      for (let x = 0; x < nx; x += step) {
        if (img[row + x] === 0) continue;
        if (x < low[0]) low[0] = x;
        if (x > high[0]) high[0] = x;
        if (y < low[1]) low[1] = y;
        if (y > high[1]) high[1] = y;
        if (z < low[2]) low[2] = z;
        if (z > high[2]) high[2] = z;
      }
    }
  }
  if (high[0] < 0) {
    low.fill(0);
    high.splice(0, 3, nx - 1, ny - 1, nz - 1);
  }
  const corners = [low, high].map((ijk) => volume.mm2vox(millimetres(hdr.affine, ijk)));
  return [0, 1, 2].map((axis) => [Math.min(corners[0][axis], corners[1][axis]),
    Math.max(corners[0][axis], corners[1][axis])]);
}

function millimetres(affine, [i, j, k]) {
  return affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);
}

// Returns the voxel index in the file at RAS millimetres: Cramer's rule on the affine.
export function indexOf(volume, mm) {
  const rows = volume.hdr.affine.slice(0, 3);
  const offset = rows.map((row, n) => mm[n] - row[3]);
  const replaced = (column) => rows.map((row, n) => Object.assign([...row], {
    [column]: offset[n] }));
  return [0, 1, 2].map((column) => Math.round(
    determinant(replaced(column)) / determinant(rows)));
}

// The determinant of the first three columns.
function determinant([p, q, r]) {
  return p[0] * (q[1] * r[2] - q[2] * r[1]) - p[1] * (q[0] * r[2] - q[2] * r[0])
    + p[2] * (q[0] * r[1] - q[1] * r[0]);
}

// Returns the value of `volume` at RAS millimetres.
export function valueAt(volume, mm) {
  const [x, y, z] = volume.mm2vox(mm);
  return volume.getValue(x, y, z);
}
