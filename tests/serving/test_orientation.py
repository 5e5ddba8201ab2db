"""However a case's files lie, its segmentation lies on them: no voxel is displaced in the world."""

import nibabel
import numpy as np
import pytest
import stand_in
from nibabel import orientations
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.preprocess import crop
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.predict import Segmenter

SHAPE = (60, 52, 46)
RECIPE = Recipe(bias_correction="none", crop="brain", crop_shape=(58, 50, 44))
AFFINE = np.array([[-1.0, 0, 0, 31], [0, -1, 0, -12], [0, 0, 1, 77], [0, 0, 0, 1]])
AXES = ["LPS", "RAS", "PIR", "SLA", "ASL"]
TURN = Rotation.from_rotvec(
    np.deg2rad(30) * np.array([0.1, -0.2, 1]) / np.linalg.norm([0.1, -0.2, 1])
).as_matrix()
"""By 30 degrees about an axis near the head's own."""

LEAST_DICE = 0.95
"""Of a segmented copy and the copied segmentation, both turned by 30 degrees: edges are
interpolated once in intensities and once in labels."""

LEAST_REAL_DICE = 0.7
"""The same of real scans: no threshold parts their tissues neatly, and bias field, window and
z-scores follow the turned grid."""

REAL_CUTS = {"flair": 1.3, "t1ce": 1.3, "t2": 1.8}
"""z-scores that bright tissue of a real head exceeds, in the mean over cubes of `REAL_EDGE`."""

REAL_EDGE = 5


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    _, raw = stand_in.raw_case(SHAPE)
    return Segmenter(stand_in.save_model(tmp_path_factory.mktemp("model") / "model", RECIPE, raw))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return stand_in.write_case(tmp_path_factory.mktemp("cohort"), stand_in.head(SHAPE)[1], AFFINE)


def test_the_stand_in_finds_the_tumour(segmenter, case):
    np.testing.assert_array_equal(segmenter.segment(case).classes, stand_in.head(SHAPE)[0])


@pytest.mark.parametrize("axes", AXES)
def test_axes_in_any_order_and_direction(segmenter, case, tmp_path, axes):
    assert_lies_the_same(segmenter, case, axes, tmp_path)


def test_a_turned_affine_changes_no_voxel(segmenter, case, tmp_path):
    assert_turned_affine_is_kept(segmenter, case, tmp_path)


def test_a_case_scanned_aslant_gives_the_segmentation_aslant(segmenter, case, tmp_path):
    dice = dice_of_resampled_copy(segmenter, case, tmp_path)
    assert min(dice.values()) >= LEAST_DICE, dice


@pytest.mark.parametrize(
    "shape",
    [
        (97, 113, 80),
        pytest.param((182, 218, 182), marks=pytest.mark.soak),
        pytest.param((240, 240, 155), marks=pytest.mark.soak),
    ],
)
def test_heads_of_any_size_by_the_default_window(shape, tmp_path):
    recipe = Recipe(bias_correction="none")
    truth, raw = stand_in.raw_case(shape, AFFINE)
    path = stand_in.save_model(tmp_path / "model", recipe, raw)
    case = stand_in.write_case(tmp_path / "cohort", stand_in.head(shape)[1], AFFINE)
    origin = recipe.window(raw.volumes, raw.modalities)
    in_window = recipe.to_grid(crop.crop(truth, origin, recipe.crop_shape), origin, shape)
    for cover, expected in (("window", in_window), ("brain", truth)):
        found = Segmenter(path, cover).segment(case)
        np.testing.assert_array_equal(found.classes, expected)
        found.write(tmp_path / "seg.nii.gz")
        written = nibabel.load(tmp_path / "seg.nii.gz")
        np.testing.assert_array_equal(written.dataobj, np.array([0, 1, 2, 4])[expected])
        np.testing.assert_array_equal(written.affine, AFFINE)


@pytest.mark.soak
@pytest.mark.parametrize("cover", ["window", "brain"])
def test_real_cases_lie_where_they_lay(real_cases, tmp_path, cover):
    """Bias correction included."""
    case = layouts.find_cases(real_cases)[0]
    path = stand_in.save_thresholds(tmp_path / "n4", Recipe(), REAL_CUTS, REAL_EDGE)
    segmenter = Segmenter(path, cover)
    assert set(np.unique(segmenter.segment(case).labels)) == {0, 1, 2, 4}
    for axes in AXES[1:]:
        assert_lies_the_same(segmenter, case, axes, tmp_path / axes)
    assert_turned_affine_is_kept(segmenter, case, tmp_path / "turned")
    dice = dice_of_resampled_copy(segmenter, case, tmp_path / "resampled")
    assert dice["WT"] >= LEAST_REAL_DICE, dice


def assert_lies_the_same(segmenter, case, axes, folder):
    """Segments `case` stored along `axes`, and compares in the world what is written."""
    expected = segmenter.segment(case)
    target = orientations.axcodes2ornt(tuple(axes))
    turned = rewritten(
        case,
        folder,
        lambda image: image.as_reoriented(
            orientations.ornt_transform(orientations.io_orientation(image.affine), target)
        ),
    )
    found = segmenter.segment(turned)
    np.testing.assert_array_equal(found.labels, expected.labels)
    written = [folder / "expected.nii.gz", folder / "found.nii.gz"]
    expected.write(written[0])
    found.write(written[1])
    lay, lies = map(nibabel.load, written)
    source = nibabel.load(turned.image("flair"))
    assert nibabel.aff2axcodes(lies.affine) == tuple(axes) and lies.shape == source.shape
    np.testing.assert_array_equal(lies.affine, source.affine)
    np.testing.assert_array_equal(world_labels(lies), world_labels(lay))


def assert_turned_affine_is_kept(segmenter, case, folder):
    """The same arrays, said to lie aslant, give the same array, said to lie aslant."""
    expected = segmenter.segment(case)
    turned = rewritten(
        case,
        folder,
        lambda image: nibabel.Nifti1Image(np.asarray(image.dataobj), world_turn() @ image.affine),
    )
    found = segmenter.segment(turned)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    found.write(folder / "found.nii.gz")
    written = nibabel.load(folder / "found.nii.gz")
    lay, lies = (nibabel.load(one.image("flair")) for one in (case, turned))
    np.testing.assert_allclose(written.affine, lies.affine, atol=1e-6)
    assert np.abs(written.affine - lay.affine)[:3, :3].max() > 0.4
    expected.write(folder / "expected.nii.gz")
    np.testing.assert_array_equal(
        written.dataobj, np.asarray(nibabel.load(folder / "expected.nii.gz").dataobj)
    )
    assert written.shape == lay.shape


def dice_of_resampled_copy(segmenter, case, folder):
    """Region -> Dice of a segmented copy, sampled on a grid that lies aslant, and the segmentation
    sampled there."""
    expected = segmenter.segment(case)

    def aslant(image):
        array = np.asarray(image.dataobj, np.float32)
        offset = grid_offset(array.shape)
        grid = np.eye(4)
        grid[:3, :3], grid[:3, 3] = TURN, offset
        return nibabel.Nifti1Image(
            ndimage.affine_transform(array, TURN, offset, order=1), image.affine @ grid
        )

    copy = rewritten(case, folder, aslant)
    found = segmenter.segment(copy)
    # The case's files are in LPS order, in which both are compared.
    assert nifti.read_geometry(case.image("flair")).orientation == spec.ORIENTATION
    there = ndimage.affine_transform(
        expected.classes, TURN, grid_offset(expected.classes.shape), order=0
    )
    dice = {}
    for region, members in spec.REGIONS.items():
        ours, theirs = np.isin(found.classes, members), np.isin(there, members)
        dice[region] = 2 * np.count_nonzero(ours & theirs) / (ours.sum() + theirs.sum())
    return dice


def rewritten(case, folder, change):
    """The cohort's one case, each of its images changed, in `folder`."""
    (folder / case.case_id).mkdir(parents=True)
    for path in case.images.values():
        nibabel.save(change(nibabel.load(path)), folder / case.case_id / path.name)
    return layouts.find_cases(folder)[0]


def world_turn():
    turn = np.eye(4)
    turn[:3, :3] = TURN
    return turn


def grid_offset(shape):
    """What makes `TURN` turn about the middle of a grid."""
    middle = (np.array(shape) - 1) / 2
    return middle - TURN @ middle


def world_labels(image):
    """{(x, y, z) in mm: label} of all tumour voxels, as two sorted arrays in one."""
    labels = np.asarray(image.dataobj)
    index = np.argwhere(labels)
    places = np.rint(nibabel.affines.apply_affine(image.affine, index) * 1000).astype(int)
    rows = np.column_stack([places, labels[tuple(index.T)]])
    assert len(rows)
    return rows[np.lexsort(rows.T)]
