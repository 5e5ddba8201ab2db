"""Damage that a run detects when it reads the record."""

import shutil

import pytest

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


def test_a_damaged_record_stops_a_run_with_one_line_and_a_repaired_one_resumes_it(
    dataset, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(dataset.root, data)
    options = TrainOptions(
        str(data),
        str(tmp_path / "model"),
        filters="2,4",
        patch_size=8,
        epochs=2,
        validation_fold="none",
        checkpoint_minutes=0,
    )
    [path] = data.glob("fold1-*.tfrecord")
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000] + b"\xff" + whole[20_001:])
    with pytest.raises(InputError, match=f"--data_dir={data}: {path.name}: case.: its data"):
        workflow.train_and_export(options)
    card = (tmp_path / "model" / "run_card.md").read_text()
    assert f"failed: --data_dir={data}: {path.name}: case" in card and "node" not in card
    path.write_bytes(whole)
    assert len(workflow.train_and_export(options).result.history) == 2
