"""Fuzz test of the NIfTI reader: mutated files are read correctly, or refused by name in one line.

A seeded mutation changes one file of a small case, or the headers of all five files alike. A child
process reads the cases under a memory limit and reports an outcome for each; the parent kills it
when a case takes too long. If the mutation changes a header, the result is compared with nibabel's
reading of the same file, reoriented to LPS. If the mutation damages a file, it is compared with the
original voxels. Memory is measured above that of the imports.

Usage, leaving the files of the last case in FOLDER:
  python tests/cohort/test_fuzz.py FOLDER FIRST LAST
"""

import gzip
import itertools
import json
import resource
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from brats_tfrecord import spec
from brats_tfrecord.cohort import nifti
from brats_tfrecord.cohort.case import Case
from brats_tfrecord.errors import CaseError

SEED = 2020
SHAPE = (24, 20, 16)
AFFINE = np.array([[-1.0, 0, 0, 11], [0, -1.0, 0, 30], [0, 0, 1.0, -7], [0, 0, 0, 1]])
SECONDS_A_CASE = 20
MEMORY_MB = 512
"""Memory limit of a child above that of its imports; most files have 15 kB."""

KINDS = (*spec.MODALITIES, "seg")
FINE, FAULTS = ("refused", "right"), ("wrong", "traceback", "out of memory", "crash", "hang")
FLOATS = (np.nan, np.inf, -np.inf, 0, -1, 1, 0.5, 1.2, -3.5, 1e-38, 1e38, 1e9, 352, 353, 348, 400)
INTEGERS = (-32768, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 20, 24, 64, 128, 256, 512, 1024, 2304, 32767)
HEADER = nibabel.nifti1.header_dtype


def arrays():
    """Makes kind -> array in LPS order: ellipsoids of noise, and a mask of 0, 1, 2 and 4."""
    rng = np.random.default_rng(SEED)
    distance = sum(
        ((grid - (n - 1) / 2) / (n / 2.4)) ** 2 for grid, n in zip(np.ogrid[:24, :20, :16], SHAPE)
    )
    volumes = {
        kind: np.where(distance < 1, rng.integers(1, 900, SHAPE), 0).astype(np.int16)
        for kind in spec.MODALITIES
    }
    mask = np.digitize(-distance, [-0.3, -0.2, -0.1]).astype(np.uint8)
    mask[mask == 3] = 4
    return {**volumes, "seg": mask}


def whole_file(array, affine=AFFINE, form=nibabel.Nifti1Image):
    image = form(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image.to_bytes()


# Mutations of the header. Each changes the header, a structured array, in place.


def any_fields(rng, header):
    for name in rng.choice(HEADER.names, rng.integers(1, 4)):
        field = header[name]
        if field.dtype.kind == "S":
            header[name] = rng.bytes(field.dtype.itemsize)
        elif field.ndim:
            field[rng.integers(field.size)] = unusual_number(rng, field.dtype)
        else:
            header[name] = unusual_number(rng, field.dtype)


def unusual_number(rng, dtype):
    if dtype.kind == "f":
        return rng.choice(FLOATS)
    limits = np.iinfo(dtype)
    return np.clip(rng.choice(INTEGERS), limits.min, limits.max)


def dimensions(rng, header):
    header["dim"][rng.integers(0, 8)] = rng.choice(INTEGERS)
    if rng.random() < 0.3:
        header["dim"][:5] = 4, *SHAPE, rng.choice([1, 2, 4])


def huge(rng, header):
    header["dim"][:5] = 3, *rng.choice([30000, 32767, 20000], 3), 1
    if rng.random() < 0.5:
        header["dim"][:4] = 3, *rng.choice([500, 600, 639], 3)


def data_type(rng, header):
    code, bits = rng.choice(
        [
            (2, 8),
            (4, 16),
            (8, 32),
            (16, 32),
            (32, 64),
            (64, 64),
            (128, 24),
            (256, 8),
            (512, 16),
            (768, 32),
            (1280, 64),
            (1536, 128),
            (2304, 32),
            (1, 1),
            (0, 0),
            (77, 16),
        ]
    )
    header["datatype"] = code
    header["bitpix"] = bits if rng.random() < 0.7 else rng.choice(INTEGERS)


def offset(rng, header):
    header["vox_offset"] = rng.choice(FLOATS)


def slope(rng, header):
    header["scl_slope"], header["scl_inter"] = rng.choice((*FLOATS, 2, 2), 2)


def spacing(rng, header):
    header["pixdim"][rng.integers(0, 4, 2)] = rng.choice(FLOATS)


def forms(rng, header):
    header["qform_code"], header["sform_code"] = rng.choice([0, 0, 1, 2, 4, 5, -1], 2)
    names = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z")
    for name in rng.choice(names, rng.integers(0, 3)):
        header[name] = rng.choice(FLOATS)


def identity(rng, header):
    size = rng.choice([0, 540, 0x5C010000, 349, -348])
    if rng.random() < 0.5:
        header["sizeof_hdr"] = size
    else:
        header["magic"] = rng.choice([b"ni1", b"n+2", b"", b"nii", b"N+1"])


HEADER_EDITS = (
    any_fields,
    any_fields,
    dimensions,
    huge,
    data_type,
    offset,
    slope,
    spacing,
    forms,
    identity,
)


# Other valid files, each made from an array in LPS order.


def big_endian(rng, array):
    image = nibabel.Nifti1Image(array, AFFINE)
    return type(image)(array, AFFINE, image.header.as_byteswapped(">")).to_bytes()


def nifti_2(rng, array):
    data = whole_file(array, form=nibabel.Nifti2Image)
    if rng.random() < 0.5:  # a 64-bit extent
        extent = int(rng.choice([-1, 0, 2**31, 2**40, 2**62]))
        data = data[:24] + extent.to_bytes(8, "little", signed=True) + data[32:]
    return data


def other_type(rng, array):
    kinds = [np.float32, np.float64, np.int32, np.uint16, np.int64, np.complex64]
    return whole_file(array.astype(kinds[rng.integers(len(kinds))]))


def not_finite(rng, array):
    array = array.astype(np.float32)
    array[tuple(rng.integers(0, SHAPE))] = rng.choice([np.nan, np.inf, -np.inf])
    return whole_file(array)


def trailing_axis(rng, array):
    return whole_file(array[(..., *[None] * rng.integers(1, 4))])


def other_order(rng, array):
    """Reorders the axes; each voxel keeps its position in the world."""
    order = np.column_stack([rng.permutation(3), rng.choice([-1, 1], 3)])
    image = nibabel.Nifti1Image(array, AFFINE).as_reoriented(order)
    return whole_file(np.asarray(image.dataobj), image.affine)


def extension(rng, array):
    image = nibabel.Nifti1Image(array, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, rng.bytes(100)))
    data = bytearray(image.to_bytes())
    if rng.random() < 0.7:
        sizes = np.array([0, -16, 8, 17, 2**31 - 1, 16])
        data[352:356] = int(rng.choice(sizes)).to_bytes(4, "little", signed=True)
    return bytes(data)


LEGAL = (big_endian, nifti_2, other_type, not_finite, trailing_axis, other_order, extension)


# Damage to files. Each function takes the bytes on the disk.


def truncated(rng, data):
    return data[: rng.integers(0, len(data))]


def flipped(rng, data):
    """Flips bits in the compressed stream, behind the ten bytes of gzip's header."""
    data = bytearray(data)
    for position in rng.integers(10, len(data), rng.integers(1, 4)):
        data[position] ^= 1 << rng.integers(8)
    return bytes(data)


def junk_after(rng, data):
    return data + [bytes(600), rng.bytes(600), gzip.compress(bytes(50_000_000), 1)][rng.integers(3)]


def wrong_checksum(rng, data):
    return data[:-8] + rng.bytes(8)


def members(rng, data):
    data = gzip.decompress(data)
    cuts = [0, *sorted(rng.integers(0, len(data), 2)), len(data)]
    return b"".join(gzip.compress(data[a:b]) for a, b in itertools.pairwise(cuts))


def misnamed(rng, data):
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else gzip.compress(data)


def other_file(rng, data):
    return [
        b"",
        rng.bytes(5000),
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        gzip.compress(b"x" * 4000),
        data[:10],
    ][rng.integers(5)]


DAMAGE = (truncated, truncated, flipped, junk_after, wrong_checksum, members, misnamed, other_file)


def mutate(index, folder):
    """Writes the files of mutation `index`; returns (name of the mutation, `Case`).

    Mutated files are called `mutant_…`, the others `fine_…`.
    """
    rng = np.random.default_rng([SEED, index])
    group = rng.choice(3, p=[0.5, 0.2, 0.3])
    mutation = (HEADER_EDITS, LEGAL, DAMAGE)[group]
    mutation = mutation[rng.integers(len(mutation))]
    chosen = KINDS if group < 2 and rng.random() < 0.4 else [KINDS[rng.integers(5)]]
    packed = rng.random() < 0.5 or mutation in (flipped, wrong_checksum, members)
    paths = {}
    for kind, array in arrays().items():
        # The same draws for every file: five headers that agree pass the check of the grid.
        draws = np.random.default_rng([SEED, index, 1])
        data, mutant = whole_file(array), kind in chosen
        if mutant and group == 0:
            data = bytearray(data)
            mutation(draws, np.frombuffer(data, HEADER, 1).reshape(()))
        elif mutant and group == 1:
            data = mutation(draws, array)
        if packed:
            data = gzip.compress(bytes(data), 1)
        if mutant and group == 2:
            data = mutation(draws, data)
        name = f"{'mutant' if mutant else 'fine'}_{kind}.nii{'.gz' * packed}"
        paths[kind] = folder / name
        paths[kind].write_bytes(data)
    mask = paths.pop("seg")
    return mutation.__name__, Case("mutant", "mutant", paths, mask, "brats2020", None)


def outcome(case, damaged):
    """Reads `case`; returns the outcome, one of FINE and FAULTS, and its reason."""
    try:
        raw = nifti.read_case(case, any_spacing=True)
    except CaseError as error:
        if isinstance(error.__cause__, MemoryError):
            return "out of memory", str(error)
        if "\n" in str(error) or "mutant" not in str(error):
            return "wrong", f"a poor message: {error}"
        return "refused", str(error)
    except MemoryError as error:
        return "out of memory", repr(error)
    except Exception as error:
        return "traceback", one_line(error)
    return compare(raw, case, arrays() if damaged else None)


def one_line(error):
    lines = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__}: {error} ({' '.join(lines)})"


def compare(raw, case, truth):
    """Compares a case with `truth`, or else with nibabel's reading; returns as `outcome`."""
    for kind in KINDS:
        actual = raw.mask if kind == "seg" else raw.volumes[..., raw.modalities.index(kind)]
        if truth:
            expected, affine = truth[kind].astype(np.float64), AFFINE
        else:
            expected, affine = read_with_nibabel(case.mask if kind == "seg" else case.images[kind])
        tolerance = 1e-6 * np.abs(expected).max() + 1e-3 * (kind == "seg")
        if actual.shape != expected.shape or not np.allclose(actual, expected, 1e-5, tolerance):
            return "wrong", f"{kind}: other voxels"
        if not np.allclose(raw.geometry.lps_affine, affine, 1e-6, 2e-3):
            return "wrong", f"{kind}: another affine"
    return "right", ""


def read_with_nibabel(path):
    """Reads float64 [X, Y, Z] in LPS order and its affine."""
    data = bytearray(path.read_bytes())
    if data[:2] == b"\x1f\x8b":
        data = bytearray(gzip.decompress(data))
    if data[:4] == (348).to_bytes(4, "little"):
        repair(np.frombuffer(data, HEADER, 1).reshape(()))
        data[348:352] = bytes(4)  # no extensions: even damaged ones do not concern the voxels
    form = nibabel.Nifti2Image if b"n+2" in data[:16] else nibabel.Nifti1Image
    image = form.from_bytes(bytes(data))
    voxels = np.asarray(image.dataobj).reshape(image.shape[:3])
    assert voxels.dtype.kind in "iuf", f"voxels of type {voxels.dtype} are no intensities"
    image = nibabel.as_closest_canonical(
        nibabel.Nifti1Image(voxels.astype(np.float64), image.affine)
    )
    to_lps = np.diag([-1.0, -1, 1, 1])
    to_lps[:2, 3] = np.array(image.shape[:2]) - 1
    return np.asarray(image.dataobj)[::-1, ::-1], image.affine @ to_lps


def repair(header):
    """Rewrites fields that the standard allows and nibabel refuses or misreads."""
    if header["vox_offset"] == 0:  # not declared, so right behind the header
        header["vox_offset"] = 352
    for name in ("qform_code", "sform_code"):  # any code above 0 counts as set
        header[name] = np.clip(header[name], 0, 1)
    if header["sform_code"]:  # the sform has priority, and the qform may be no rotation
        header["qform_code"] = header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 0


def child(folder, first, last):
    """Reads the mutations [first, last); prints one JSON line for each."""
    limit = resource_of("VmSize") + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource_of("VmHWM")
    for index in range(first, last):
        name, case = mutate(index, folder)
        try:
            result, why = outcome(case, name in {mutation.__name__ for mutation in DAMAGE})
        except Exception as error:
            result, why = "wrong", f"nibabel refuses the file: {one_line(error)}"
        print(
            json.dumps([index, name, result, why, (resource_of("VmHWM") - before) // 10**6]),
            flush=True,
        )


def resource_of(field):
    """Returns a value of /proc/self/status in bytes."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


def run(folder, count):
    """Reads `count` mutations in child processes.

    Returns:
        list of [index, mutation, outcome, reason, memory in MB].
    """
    rows, output, errors = [], folder / "output.jsonl", folder / "errors.txt"
    while len(rows) < count:
        command = [sys.executable, __file__, str(folder), str(len(rows)), str(count)]
        with open(output, "w") as out, open(errors, "w") as err:
            ended = wait(subprocess.Popen(command, stdout=out, stderr=err), output)
        rows += map(json.loads, output.read_text().splitlines())
        if len(rows) < count:
            fault = "crash" if ended else "hang"
            rows.append([len(rows), "?", fault, errors.read_text()[-300:], 0])
    return rows


def wait(process, output):
    """Waits until the child ends; kills it and returns False if a case takes too long."""
    while True:
        size = output.stat().st_size
        try:
            process.wait(SECONDS_A_CASE)
            return True
        except subprocess.TimeoutExpired:
            if output.stat().st_size == size:
                process.kill()
                process.wait()
                return False


def check(rows):
    """Prints a table of the outcomes and fails if there is a fault."""
    counts = Counter((name, result) for _, name, result, _, _ in rows)
    print(f"\n{'mutation':16}" + "".join(f"{result:>14}" for result in FINE + FAULTS))
    for name in sorted({mutation for mutation, _ in counts}):
        print(f"{name:16}" + "".join(f"{counts[name, result]:>14}" for result in FINE + FAULTS))
    totals = Counter(result for _, _, result, _, _ in rows)
    print(f"{'all':16}" + "".join(f"{totals[result]:>14}" for result in FINE + FAULTS))
    print(f"peak memory of a child above its imports: {max(row[-1] for row in rows)} MB")
    faults = [
        f"{index} {name}: {result}: {why}"
        for index, name, result, why, _ in rows
        if result in FAULTS
    ]
    assert not faults, f"seed {SEED}\n" + "\n".join(faults)
    assert set(totals) == set(FINE)


def test_forty_mutated_cases_are_refused_or_read_correctly(tmp_path):
    check(run(tmp_path, 40))


@pytest.mark.soak
def test_a_thousand_mutated_cases_are_refused_or_read_correctly(tmp_path):
    rows = run(tmp_path, 1000)
    check(rows)
    assert max(row[-1] for row in rows) < 100


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
