"""The segmentation of a case is not displaced in world space, for any axis order and affine."""

import nibabel
import numpy as np
import pytest
import stand_in
from nibabel import orientations
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.preprocess.recipe import Recipe
from brats_tfrecord.serving.predict import Segmenter

pytestmark = pytest.mark.slow

SHAPE = (60, 52, 46)
RECIPE = Recipe(bias_correction="none", crop="brain", crop_shape=(58, 50, 44))
AFFINE = np.array([[-1.0, 0, 0, 31], [0, -1, 0, -12], [0, 0, 1, 77], [0, 0, 0, 1]])
AXES = ["LPS", "RAS", "PIR", "SLA", "ASL"]
ROTATION = Rotation.from_rotvec(
    np.deg2rad(30) * np.array([0.1, -0.2, 1]) / np.linalg.norm([0.1, -0.2, 1])
).as_matrix()
"""Rotation by 30 degrees about an axis close to z."""

LEAST_DICE = 0.95
"""Smallest Dice of the segmentation of a rotated copy and the rotated segmentation. They differ at
edges, which are interpolated in the intensities or in the labels."""

LEAST_REAL_DICE = 0.7
"""The same for real scans. Thresholds do not separate their tissues well, and bias field, window
and z-scores depend on the rotated grid."""

REAL_CUTS = {"flair": 1.3, "t1ce": 1.3, "t2": 1.8}
"""z-scores that bright tissue of a real head exceeds, averaged over `REAL_EDGE`³ voxels."""

REAL_EDGE = 5


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    _, raw = stand_in.raw_case(SHAPE)
    return Segmenter(stand_in.save_model(tmp_path_factory.mktemp("model") / "model", RECIPE, raw))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return stand_in.write_case(tmp_path_factory.mktemp("cohort"), stand_in.head(SHAPE)[1], AFFINE)


def test_the_stand_in_segments_the_tumour(segmenter, case):
    np.testing.assert_array_equal(segmenter.segment(case).classes, stand_in.head(SHAPE)[0])


@pytest.mark.parametrize("axes", AXES)
def test_axis_order_and_direction_do_not_displace_the_segmentation(segmenter, case, tmp_path, axes):
    assert_same_world_labels(segmenter, case, axes, tmp_path)


def test_a_rotated_affine_does_not_change_the_voxels(segmenter, case, tmp_path):
    assert_rotated_affine_is_kept(segmenter, case, tmp_path)


def test_a_rotated_copy_has_the_rotated_segmentation(segmenter, case, tmp_path):
    dice = dice_of_rotated_copy(segmenter, case, tmp_path)
    assert min(dice.values()) >= LEAST_DICE, dice


@pytest.mark.parametrize(
    "shape",
    [
        (97, 113, 80),
        pytest.param((182, 218, 182), marks=pytest.mark.soak),
        pytest.param((240, 240, 155), marks=pytest.mark.soak),
    ],
)
def test_the_default_window_fits_heads_of_any_size(shape, tmp_path):
    recipe = Recipe(bias_correction="none")
    truth, raw = stand_in.raw_case(shape, AFFINE)
    path = stand_in.save_model(tmp_path / "model", recipe, raw)
    case = stand_in.write_case(tmp_path / "cohort", stand_in.head(shape)[1], AFFINE)
    segmentation = Segmenter(path).segment(case)
    np.testing.assert_array_equal(segmentation.classes, truth)
    segmentation.write(tmp_path / "seg.nii.gz")
    written = nibabel.load(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(written.dataobj, np.array([0, 1, 2, 4])[truth])
    np.testing.assert_array_equal(written.affine, AFFINE)


@pytest.mark.soak
def test_real_cases_are_not_displaced(real_cases, tmp_path):
    """Includes the bias correction."""
    case = layouts.find_cases(real_cases)[0]
    path = stand_in.save_thresholds(tmp_path / "n4", Recipe(), REAL_CUTS, REAL_EDGE)
    segmenter = Segmenter(path)
    assert set(np.unique(segmenter.segment(case).labels)) == {0, 1, 2, 4}
    for axes in AXES[1:]:
        assert_same_world_labels(segmenter, case, axes, tmp_path / axes)
    assert_rotated_affine_is_kept(segmenter, case, tmp_path / "rotated")
    dice = dice_of_rotated_copy(segmenter, case, tmp_path / "resampled")
    assert dice["WT"] >= LEAST_REAL_DICE, dice


def assert_same_world_labels(segmenter, case, axes, folder):
    """Stores `case` along `axes`, segments it and compares the written labels in world space."""
    expected = segmenter.segment(case)
    target = orientations.axcodes2ornt(tuple(axes))
    reoriented = rewritten(
        case,
        folder,
        lambda image: image.as_reoriented(
            orientations.ornt_transform(orientations.io_orientation(image.affine), target)
        ),
    )
    segmentation = segmenter.segment(reoriented)
    np.testing.assert_array_equal(segmentation.labels, expected.labels)
    before, after = written(expected, folder), written(segmentation, folder)
    source = nibabel.load(reoriented.image("flair"))
    assert nibabel.aff2axcodes(after.affine) == tuple(axes) and after.shape == source.shape
    np.testing.assert_array_equal(after.affine, source.affine)
    np.testing.assert_array_equal(world_labels(after), world_labels(before))


def assert_rotated_affine_is_kept(segmenter, case, folder):
    """Rotates the affine but not the arrays: the labels must stay, with the rotated affine."""
    expected = segmenter.segment(case)
    rotation = np.eye(4)
    rotation[:3, :3] = ROTATION
    rotated = rewritten(
        case,
        folder,
        lambda image: nibabel.Nifti1Image(np.asarray(image.dataobj), rotation @ image.affine),
    )
    segmentation = segmenter.segment(rotated)
    np.testing.assert_array_equal(segmentation.labels, expected.labels)
    np.testing.assert_array_equal(segmentation.probabilities, expected.probabilities)
    before, after = written(expected, folder), written(segmentation, folder)
    source, rotated_source = (nibabel.load(files.image("flair")) for files in (case, rotated))
    np.testing.assert_allclose(after.affine, rotated_source.affine, atol=1e-6)
    assert np.abs(after.affine - source.affine)[:3, :3].max() > 0.4
    np.testing.assert_array_equal(after.dataobj, before.dataobj)
    assert after.shape == source.shape


def dice_of_rotated_copy(segmenter, case, folder):
    """Computes region -> Dice of the segmentation of a rotated copy and the rotated segmentation.

    The copy is sampled on a grid that is rotated by `ROTATION`.
    """
    expected = segmenter.segment(case)

    def on_rotated_grid(image):
        array = np.asarray(image.dataobj, np.float32)
        offset = grid_offset(array.shape)
        grid = np.eye(4)
        grid[:3, :3], grid[:3, 3] = ROTATION, offset
        return nibabel.Nifti1Image(
            ndimage.affine_transform(array, ROTATION, offset, order=1), image.affine @ grid
        )

    copy = rewritten(case, folder, on_rotated_grid)
    segmentation = segmenter.segment(copy)
    # `classes` are in LPS order, as are the files of the case.
    assert nifti.read_geometry(case.image("flair")).orientation == spec.ORIENTATION
    rotated = ndimage.affine_transform(
        expected.classes, ROTATION, grid_offset(expected.classes.shape), order=0
    )
    dice = {}
    for region, members in spec.REGIONS.items():
        a, b = np.isin(segmentation.classes, members), np.isin(rotated, members)
        dice[region] = 2 * np.count_nonzero(a & b) / (a.sum() + b.sum())
    return dice


def rewritten(case, folder, change):
    """Writes the case to `folder`, each image replaced by `change(image)`; returns the new case."""
    (folder / case.case_id).mkdir(parents=True)
    for path in case.images.values():
        nibabel.save(change(nibabel.load(path)), folder / case.case_id / path.name)
    return layouts.find_cases(folder)[0]


def written(segmentation, folder):
    """Writes a segmentation and loads the file."""
    path = folder / f"{len(list(folder.glob('*.nii.gz')))}.nii.gz"
    segmentation.write(path)
    return nibabel.load(path)


def grid_offset(shape):
    """Returns the offset with which `ROTATION` rotates about the centre of a grid."""
    centre = (np.array(shape) - 1) / 2
    return centre - ROTATION @ centre


def world_labels(image):
    """Returns one row (x, y, z in µm, label) for each tumour voxel, sorted."""
    labels = np.asarray(image.dataobj)
    index = np.argwhere(labels)
    positions = np.rint(nibabel.affines.apply_affine(image.affine, index) * 1000).astype(int)
    rows = np.column_stack([positions, labels[tuple(index.T)]])
    assert len(rows)
    return rows[np.lexsort(rows.T)]
