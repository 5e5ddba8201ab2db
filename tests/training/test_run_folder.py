import pytest

from brats_tfrecord.errors import InputError
from brats_tfrecord.training import run_folder
from brats_tfrecord.training.distribution import devices
from brats_tfrecord.training.distribution.peers import Peers
from brats_tfrecord.training.train_options import TrainOptions


def test_a_damaged_run_file_is_named(tmp_path, dataset):
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last-00001-000000.index").touch()
    with pytest.raises(InputError, match="run.json: is damaged"):
        run_folder.claim(TrainOptions(str(dataset.root), str(tmp_path)), dataset)


def test_a_refused_run_leaves_no_claim_and_a_run_that_began_keeps_its_own(dataset, tmp_path):
    options, peers = TrainOptions(str(dataset.root), str(tmp_path)), Peers(devices.make_strategy())
    for left, stays in ((), False), (("run_card.md",), True):
        with pytest.raises(InputError, match="no network fits"):
            with run_folder.held(options, peers):
                run_folder.claim(options, dataset)
                for name in left:
                    (tmp_path / name).touch()
                raise InputError("no network fits")
        assert (tmp_path / "run.json").is_file() == stays


def test_two_trainings_in_one_folder_are_refused_and_what_a_killed_one_left_goes(tmp_path):
    options, peers = TrainOptions("data", str(tmp_path)), Peers(devices.make_strategy())
    orphan = tmp_path / ".history.csv.29809-8ce1caa4.tmp"
    (tmp_path / "run.json").write_text("{}")
    orphan.write_bytes(b"cut off")
    with run_folder.held(options, peers):
        assert not orphan.exists()
        with pytest.raises(InputError, match=r"another training is at work there \(process \d+ on"):
            with run_folder.held(options, peers):
                pass
    with run_folder.held(options, peers):
        pass
