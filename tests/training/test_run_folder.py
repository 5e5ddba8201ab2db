import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import run_folder
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.train_options import TrainOptions


def test_a_damaged_run_file_is_refused(tmp_path, dataset):
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last-00001-000000.index").touch()
    with pytest.raises(InputError, match="run.json: is damaged"):
        run_folder.claim(TrainOptions(str(dataset.root), str(tmp_path)), dataset)


def test_a_refused_run_leaves_the_folder_free_unless_it_has_written_files(dataset, tmp_path):
    options, peers = TrainOptions(str(dataset.root), str(tmp_path)), Peers(devices.make_strategy())
    for written, is_claimed in ((), False), (("run_card.md",), True):
        with pytest.raises(InputError, match="no network fits"):
            with run_folder.held(options, peers):
                run_folder.claim(options, dataset)
                for name in written:
                    (tmp_path / name).touch()
                raise InputError("no network fits")
        assert (tmp_path / "run.json").is_file() == is_claimed


def test_a_folder_in_use_is_refused_and_temporary_files_of_a_killed_run_are_removed(tmp_path):
    options, peers = TrainOptions("data", str(tmp_path)), Peers(devices.make_strategy())
    orphan = tmp_path / ".history.csv.29809-8ce1caa4.tmp"
    (tmp_path / "run.json").write_text("{}")
    orphan.write_bytes(b"cut off")
    with run_folder.held(options, peers):
        assert not orphan.exists()
        with pytest.raises(
            InputError, match=r"another training is using this folder \(process \d+ "
        ):
            with run_folder.held(options, peers):
                pass
    with run_folder.held(options, peers):
        pass
