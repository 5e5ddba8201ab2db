"""Bytes in an unnamed file on disk."""

import hypothesis
from hypothesis import strategies

from app.spool import Spool


def test_the_oldest_values_are_overwritten_at_the_limit():
    spool = Spool(10)
    for key in "abc":
        spool.put(key, key.encode() * 4)  # c starts again at the beginning, over a
    assert spool.keys() == ["b", "c"]
    assert [spool.get(key) for key in "abc"] == [None, b"bbbb", b"cccc"]
    spool.put("b", b"new")
    assert spool.get("b") == b"new"
    spool.put("long", bytes(11))
    assert spool.get("long") is None and spool.keys() == ["c", "b"]


def test_a_damaged_value_is_forgotten():
    spool = Spool(100)
    spool.put("a", b"first")
    spool.put("b", b"second")
    spool._file.seek(2)
    spool._file.write(b"X")
    assert (spool.get("a"), spool.get("b")) == (None, b"second")
    spool._file.truncate(7)
    assert spool.get("b") is None and spool.keys() == []


def test_values_are_not_kept_while_the_disk_is_full(monkeypatch, caplog):
    spool = Spool(100)
    spool.put("a", b"first")

    class Full:
        def seek(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "_file", Full())
    spool.put("b", b"second")
    assert spool.get("b") is None and "No space left" in caplog.text


def test_no_name_is_left_in_the_folder_of_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool(100)
    spool.put("a", b"a patient")
    assert spool.get("a") and not list(tmp_path.iterdir())


@hypothesis.given(
    strategies.lists(strategies.tuples(strategies.sampled_from("abcd"), strategies.binary()))
)
def test_a_value_is_the_last_one_put_or_none(puts):
    spool, latest = Spool(40), {}
    for key, value in puts:
        spool.put(key, value)
        latest[key] = value
        assert spool.get(key) == (value if len(value) <= 40 else None)
        for other, expected in latest.items():
            assert spool.get(other) in (expected, None)
