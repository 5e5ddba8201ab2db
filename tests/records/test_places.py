import numpy as np
import pytest
from tiny_cohorts import TINY_FLAGS

from brats_tfrecord.records import example, manifest, places, tfrecord


@pytest.fixture(scope="module")
def dataset(run_tool, tiny_cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    run_tool(
        "convert_to_tfrecord.py",
        f"--input_dir={tiny_cohort}",
        f"--output_dir={root}",
        "--bias_correction=none",
        "--jobs=1",
        *TINY_FLAGS,
    )
    return manifest.load(root)


def test_the_bytes_at_a_place_are_those_of_the_decoded_record(dataset):
    found = places.find_places(dataset, (0, 2))
    assert sorted(place.case_id for place in found) == dataset.case_ids((0, 2))
    records = {path.name: list(tfrecord.read_records(path)) for path in dataset.shard_paths((0, 2))}
    for place in found:
        data = (dataset.root / place.shard).read_bytes()
        record = data[place.begin : place.end]
        assert record in records[place.shard]
        case = example.decode(record, dataset.recipe.image_dtype)
        assert case.case_id == place.case_id
        image = np.frombuffer(data, case.image.dtype, case.image.size, place.image)
        mask = np.frombuffer(data, np.uint8, case.classes.size, place.mask)
        np.testing.assert_array_equal(image.reshape(case.image.shape), case.image)
        np.testing.assert_array_equal(
            mask.reshape(case.classes.shape), np.left_shift(1, case.classes)
        )


def test_no_folds_no_places(dataset):
    assert places.find_places(dataset, ()) == []
