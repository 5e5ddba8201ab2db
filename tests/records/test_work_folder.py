import pytest

from brats_tfrecord.records import manifest, tfrecord, work_folder

ROW = manifest.CaseRow(
    case_id="A_001",
    patient_id="A",
    grade=None,
    labelled=True,
    fold=None,
    shard="",
    record_offset=0,
    record_bytes=7,
    image_offset=2,
    mask_offset=5,
    inputs={"t1": "0"},
    voxels={"t1": "1"},
    key="abc",
    brain_voxels=9,
    brain_voxels_lost=1,
    tumour_voxels_lost=0,
    class_voxels=(5, 4),
    warnings=(),
)


@pytest.fixture
def work(tmp_path):
    with work_folder.locked(tmp_path) as work:
        yield work


def test_a_finished_case_is_found_by_its_key(work):
    work.put(ROW, tfrecord.frame(b"payload"))
    assert work.find("abc") == ROW
    assert list(tfrecord.read_records(work.record("abc"))) == [b"payload"]
    work.drop("abc")
    assert work.find("abc") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda work: work.record("abc").write_bytes(b""),
        lambda work: work.record("abc").write_bytes(work.record("abc").read_bytes()[:-1]),
        lambda work: work.record("abc").write_bytes(work.record("abc").read_bytes() * 2),
        lambda work: work.record("abc").write_bytes(
            work.record("abc").read_bytes()[:-9] + bytes(9)
        ),
        lambda work: work.record("abc").unlink(),
        lambda work: (work.path / "abc.json").write_text("{"),
        lambda work: (work.path / "abc.json").write_text("{}"),
    ],
)
def test_a_case_damaged_by_a_crash_is_not_found(work, damage):
    work.put(ROW, tfrecord.frame(b"payload"))
    damage(work)
    assert work.find("abc") is None


def test_marks_count_the_attempts_that_did_not_return(work):
    with work.mark("A_001") as attempts:
        assert attempts == 0 and work.running() == ["A_001"]
        with open(work.path / "running" / "A_001") as mark:  # what a killed worker leaves
            left = mark.read()
    assert work.running() == []
    (work.path / "running" / "A_001").write_text(left)
    with work.mark("A_001") as attempts:
        assert attempts == 1


def test_a_lock_ends_with_its_holder(tmp_path):
    with work_folder.locked(tmp_path) as work:
        work_folder.remove(work)
    with work_folder.locked(tmp_path):
        pass
