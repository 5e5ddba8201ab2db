import json
import types

import pytest

from brats_tfrecord.errors import InputError, Stopped
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


@pytest.fixture
def begun(tmp_path, dataset):
    """Function (flags) -> claims a folder that holds results, as a rerun with these flags does."""

    def claim(meant="mixed_bfloat16", **flags):
        options = TrainOptions(str(dataset.root), str(tmp_path), **flags)
        run_folder.claim(options, dataset, meant)
        (tmp_path / "history.csv").touch()
        return json.loads((tmp_path / "run.json").read_text())

    return claim


def test_what_auto_meant_is_part_of_the_run(begun):
    assert begun("mixed_bfloat16")["precision"] == "mixed_bfloat16"
    with pytest.raises(
        InputError,
        match="--precision was mixed_bfloat16, now mixed_float16, which auto means on this "
        "machine: give --precision=mixed_bfloat16; give the flags of that run",
    ):
        begun("mixed_float16")
    begun("mixed_bfloat16", precision="mixed_bfloat16")
    begun("mixed_bfloat16")
    with pytest.raises(InputError, match="--precision was mixed_bfloat16, now float32; give the"):
        begun("float32", precision="float32")


def older(folder, precision, **options):
    """Rewrites run.json as versions before 0.2 did."""
    run = json.loads((folder / "run.json").read_text())
    del run["precision"], run["options"]["foreground"]
    run["options"] |= {"precision": precision, **options}
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize("recorded", ["float32", "auto"])
def test_a_run_of_an_older_version_continues_in_the_precision_of_its_card(
    begun, tmp_path, recorded, capsys
):
    begun("float32")
    older(tmp_path, recorded)
    (tmp_path / "run_card.json").write_text('{"arithmetic": {"precision": "float32"}}')
    with pytest.raises(InputError, match="--precision was float32, now mixed_bfloat16"):
        begun("mixed_bfloat16")
    assert begun("float32")["precision"] == "float32"
    assert capsys.readouterr().out == ""


def test_without_a_card_what_auto_meant_is_unknown_and_any_is_accepted(begun, tmp_path):
    begun("float32")
    older(tmp_path, "auto")
    assert begun("mixed_bfloat16")["precision"] == "mixed_bfloat16"


def test_a_run_of_an_older_version_is_told_that_its_weight_decay_changes(begun, tmp_path, capsys):
    begun(optimizer="adamw")
    assert capsys.readouterr().out == ""
    older(tmp_path, "mixed_bfloat16")
    for lines in (1, 0):  # from then on it is a run of this version
        begun(optimizer="adamw")
        assert capsys.readouterr().out.count("--weight_decay leaves biases") == lines


def test_a_run_of_a_version_without_brain_channel_and_modality_dropout_continues(begun, tmp_path):
    begun()
    run = json.loads((tmp_path / "run.json").read_text())
    del run["options"]["brain_channel"], run["options"]["modality_dropout"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    begun()
    with pytest.raises(InputError, match="another run: --brain_channel was False, now True; give"):
        begun(brain_channel=True)


def test_epochs_that_one_schedule_does_not_record_are_not_a_difference(begun):
    begun(schedule="cosine", epochs=16)
    with pytest.raises(InputError, match="another run: --schedule was cosine, now constant; give"):
        begun(epochs=16)
    with pytest.raises(InputError, match="another run: --epochs was 16, now 17; give the flags"):
        begun(schedule="cosine", epochs=17)


def test_a_worker_ends_with_the_message_that_another_has_left(tmp_path, monkeypatch):
    options = TrainOptions("data", str(tmp_path))
    (tmp_path / "run.json").touch()
    monkeypatch.setattr(run_folder, "_MESSAGE_SECONDS", 0.2)
    first, second = (types.SimpleNamespace(count=2, name=f"worker {number}") for number in (0, 1))
    lost = Stopped("a peer was lost", is_lost_peer=True)

    def end(peers, error):
        with run_folder.input_errors_shared(options, peers):
            raise error

    with pytest.raises(Stopped, match="a peer was lost"):
        end(first, lost)
    with pytest.raises(InputError, match="^a shard is damaged"):
        end(second, InputError("a shard is damaged"))
    with pytest.raises(InputError, match="^worker 1: a shard is damaged"):
        end(first, lost)
    with pytest.raises(Stopped, match="SIGTERM"):  # its own reason, not the loss of another
        end(first, Stopped("stopped by SIGTERM"))
    with run_folder.held(options, Peers(devices.make_strategy())):
        with pytest.raises(Stopped, match="a peer was lost"):  # the next session starts anew
            end(first, lost)


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
