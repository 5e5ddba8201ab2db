"""Mutated NIfTI files: every one is refused in one line that names it, or read right.

A seeded mutation `index` damages one file of a small case, or the headers of all five alike. A
child process reads the cases under a memory limit and tells what came of each; the parent ends it
when a case takes too long. "Right" is proved against nibabel's own reading of the same file turned
to LPS, where the mutation changes what the file says, and against the voxels as they were, where
the file is merely damaged. The memory stated is what the child took above its imports.

By hand: `python tests/cohort/test_fuzz.py FOLDER FIRST LAST` leaves the last case's files there.
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
"""What a child may take above what it holds after its imports: most mutants are 15 kB."""

KINDS = (*spec.MODALITIES, "seg")
FINE, FAULTS = ("refused", "right"), ("wrong", "traceback", "out of memory", "crash", "hang")
FLOATS = (np.nan, np.inf, -np.inf, 0, -1, 1, 0.5, 1.2, -3.5, 1e-38, 1e38, 1e9, 352, 353, 348, 400)
INTEGERS = (-32768, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 20, 24, 64, 128, 256, 512, 1024, 2304, 32767)
HEADER = nibabel.nifti1.header_dtype


def arrays():
    """Kind -> array in LPS order: an ellipsoid of noise, labels 0, 1, 2, 4 in the mask."""
    rng = np.random.default_rng(SEED)
    distance = sum(
        ((grid - (n - 1) / 2) / (n / 2.4)) ** 2 for grid, n in zip(np.ogrid[:24, :20, :16], SHAPE)
    )
    made = {
        kind: np.where(distance < 1, rng.integers(1, 900, SHAPE), 0).astype(np.int16)
        for kind in spec.MODALITIES
    }
    made["seg"] = np.digitize(-distance, [-0.3, -0.2, -0.1]).astype(np.uint8)
    made["seg"][made["seg"] == 3] = 4
    return made


def whole_file(array, affine=AFFINE, form=nibabel.Nifti1Image):
    image = form(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image.to_bytes()


# What a header can say. Each edits the header, a structured array, in place.


def any_fields(rng, header):
    for name in rng.choice(HEADER.names, rng.integers(1, 4)):
        place = header[name]
        if place.dtype.kind == "S":
            header[name] = rng.bytes(place.dtype.itemsize)
        elif place.ndim:
            place[rng.integers(place.size)] = interesting(rng, place.dtype)
        else:
            header[name] = interesting(rng, place.dtype)


def interesting(rng, dtype):
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


# Other things a file can be, all of them legal: made from the array, in LPS order.


def big_endian(rng, array):
    image = nibabel.Nifti1Image(array, AFFINE)
    return type(image)(array, AFFINE, image.header.as_byteswapped(">")).to_bytes()


def nifti_2(rng, array):
    data = whole_file(array, form=nibabel.Nifti2Image)
    if rng.random() < 0.5:  # an extent of the 64-bit kind
        extent = int(rng.choice([-1, 0, 2**31, 2**40, 2**62]))
        data = data[:24] + extent.to_bytes(8, "little", signed=True) + data[32:]
    return data


def other_type(rng, array):
    kinds = [np.float32, np.float64, np.int32, np.uint16, np.int64, np.complex64]
    return whole_file(array.astype(kinds[rng.integers(len(kinds))]))


def not_finite(rng, array):
    holed = array.astype(np.float32)
    holed[tuple(rng.integers(0, SHAPE))] = rng.choice([np.nan, np.inf, -np.inf])
    return whole_file(holed)


def trailing_axis(rng, array):
    return whole_file(array[(..., *[None] * rng.integers(1, 4))])


def other_order(rng, array):
    """The same voxels in another order of the file, each still at its place in the world."""
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


# What happens to files on their way. Each takes the bytes as they lie on the disk.


def truncated(rng, data):
    return data[: rng.integers(0, len(data))]


def flipped(rng, data):
    """Bits flip in the compressed stream, past gzip's own header of ten bytes."""
    data = bytearray(data)
    for place in rng.integers(10, len(data), rng.integers(1, 4)):
        data[place] ^= 1 << rng.integers(8)
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

    The mutants are called `mutant_…`, the files that stay as they are `fine_…`.
    """
    rng = np.random.default_rng([SEED, index])
    group = rng.choice(3, p=[0.5, 0.2, 0.3])
    mutation = (HEADER_EDITS, LEGAL, DAMAGE)[group]
    mutation = mutation[rng.integers(len(mutation))]
    chosen = KINDS if group < 2 and rng.random() < 0.4 else [KINDS[rng.integers(5)]]
    packed = rng.random() < 0.5 or mutation in (flipped, wrong_checksum, members)
    paths = {}
    for kind, array in arrays().items():
        # The same draws for every file: a case whose five headers agree gets past the comparison.
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
    """(what came of reading `case`, one of FINE and FAULTS; why)."""
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
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__}: {error} ({' '.join(places)})"


def compare(raw, case, truth):
    """ "right" if every array and its place in the world is what the files say."""
    for kind in KINDS:
        mine = raw.mask if kind == "seg" else raw.volumes[..., raw.modalities.index(kind)]
        if truth:
            theirs, affine = truth[kind].astype(np.float64), AFFINE
        else:
            theirs, affine = reading_of_nibabel(case.mask if kind == "seg" else case.images[kind])
        largest = np.abs(theirs).max()
        if mine.shape != theirs.shape or not np.allclose(
            mine, theirs, 1e-5, 1e-6 * largest + 1e-3 * (kind == "seg")
        ):
            return "wrong", f"{kind}: not what the file holds"
        if not np.allclose(raw.geometry.lps_affine, affine, 1e-6, 2e-3):
            return "wrong", f"{kind}: lies elsewhere"
    return "right", ""


def reading_of_nibabel(path):
    """(float64 [X, Y, Z], its affine), LPS order."""
    data = bytearray(path.read_bytes())
    if data[:2] == b"\x1f\x8b":
        data = bytearray(gzip.decompress(data))
    if data[:4] == (348).to_bytes(4, "little"):
        mend(np.frombuffer(data, HEADER, 1).reshape(()))
        data[348:352] = bytes(4)  # extensions say nothing of the voxels, however damaged
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


def mend(header):
    """What the standard allows and nibabel refuses or misreads, said in another way."""
    if header["vox_offset"] == 0:  # not declared: right behind the header
        header["vox_offset"] = 352
    for name in ("qform_code", "sform_code"):  # above 0 is set, whether the code is known or not
        header[name] = np.clip(header[name], 0, 1)
    if header["sform_code"]:  # decides alone; the qform may be no rotation
        header["qform_code"] = header["quatern_b"] = header["quatern_c"] = header["quatern_d"] = 0


def child(folder, first, last):
    """Reads the mutations [first, last); one JSON line each."""
    limit = resource_of("VmSize") + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource_of("VmHWM")
    for index in range(first, last):
        name, case = mutate(index, folder)
        try:
            result, why = outcome(case, name in {mutation.__name__ for mutation in DAMAGE})
        except Exception as error:
            result, why = "wrong", f"unlike nibabel: {one_line(error)}"
        print(
            json.dumps([index, name, result, why, (resource_of("VmHWM") - before) // 10**6]),
            flush=True,
        )


def resource_of(field):
    """Bytes of one line of /proc/self/status."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


def run(folder, count):
    """Reads mutations 0 to count - 1 in children; list of [index, mutation, outcome, why, MB]."""
    found, said, errors = [], folder / "said.jsonl", folder / "errors.txt"
    while len(found) < count:
        command = [sys.executable, __file__, str(folder), str(len(found)), str(count)]
        with open(said, "w") as out, open(errors, "w") as err:
            ended = (
                "crash"
                if finished(subprocess.Popen(command, stdout=out, stderr=err), said)
                else "hang"
            )
        found += map(json.loads, said.read_text().splitlines())
        if len(found) < count:
            found.append([len(found), "?", ended, errors.read_text()[-300:], 0])
    return found


def finished(process, said):
    """Waits for the child; ends it, and returns False, once a case takes too long."""
    while True:
        size = said.stat().st_size
        try:
            process.wait(SECONDS_A_CASE)
            return True
        except subprocess.TimeoutExpired:
            if said.stat().st_size == size:
                process.kill()
                process.wait()
                return False


def check(found):
    """Prints the table; no mutation may end in one of the faults."""
    counts = Counter((name, result) for _, name, result, _, _ in found)
    print(f"\n{'mutation':16}" + "".join(f"{result:>14}" for result in FINE + FAULTS))
    for name in sorted({mutation for mutation, _ in counts}):
        print(f"{name:16}" + "".join(f"{counts[name, result]:>14}" for result in FINE + FAULTS))
    ends = Counter(result for _, _, result, _, _ in found)
    print(f"{'all':16}" + "".join(f"{ends[result]:>14}" for result in FINE + FAULTS))
    print(f"peak memory of a child above its imports: {max(row[-1] for row in found)} MB")
    faults = [
        f"{index} {name}: {result}: {why}"
        for index, name, result, why, _ in found
        if result in FAULTS
    ]
    assert not faults, f"seed {SEED}\n" + "\n".join(faults)
    assert set(ends) == set(FINE)


def test_forty_mutated_files_are_refused_or_read_right(tmp_path):
    check(run(tmp_path, 40))


@pytest.mark.soak
def test_a_thousand_mutated_files_are_refused_or_read_right(tmp_path):
    found = run(tmp_path, 1000)
    check(found)
    assert max(row[-1] for row in found) < 100


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
