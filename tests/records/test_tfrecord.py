"""Compares our framing with the reader and writer of TensorFlow."""

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from brats_tfrecord.records import tfrecord
from brats_tfrecord.records.example_proto import Example
from brats_tfrecord.records.tfrecord import DamagedRecord


def write(path, payloads):
    path.write_bytes(b"".join(b"".join(tfrecord.frame(payload)) for payload in payloads))
    return path


@given(payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_we_and_tensorflow_read_each_others_files(tmp_path_factory, payloads):
    root = tmp_path_factory.mktemp("records")
    ours, theirs = write(root / "ours", payloads), root / "theirs"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == payloads
    assert list(tfrecord.read_records(theirs)) == payloads


def test_an_example_has_the_same_bytes_as_tensorflows():
    ours, theirs = Example(), tf.train.Example()
    for example in (ours, theirs):
        features = example.features.feature
        features["b"].int64_list.value.extend([3, -1, 1 << 40])
        features["a"].bytes_list.value.append(b"\0x")
        features["c"].float_list.value.extend([0.5, -2.0])
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "position, what",
    [
        (16 + 3 + 2, "length does not fit"),  # the second record's length
        (16 + 3 + 9, "length does not fit"),  # the checksum of that length
        (16 + 3 + 13, "data do not fit"),  # its payload
        (16 + 3 + 17, "data do not fit"),  # the checksum of its payload
    ],
)
def test_a_flipped_bit_is_detected(tmp_path, position, what):
    """Records "one" and "four": 12 bytes of header, the payload, 4 bytes of checksum each."""
    path = write(tmp_path / "two", [b"one", b"four"])
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    records = tfrecord.read_records(path)
    assert next(records) == b"one"
    with pytest.raises(DamagedRecord, match=what) as caught:
        next(records)
    assert caught.value.index == 1


@pytest.mark.parametrize("left", [1, 11, 12, 17, 18])
def test_a_file_that_ends_within_a_record_is_damaged(tmp_path, left):
    path = write(tmp_path / "cut", [b"one"])
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedRecord, match="record 0: the file ends within it"):
        list(tfrecord.read_records(path))


def test_a_payload_is_read_at_its_offset(tmp_path):
    path = write(tmp_path / "two", [b"one", b"four"])
    assert tfrecord.read_payload(path, 12, 3) == b"one"
    assert tfrecord.read_payload(path, 16 + 3 + 12, 4) == b"four"
    for offset, size in ((12, 4), (13, 3), (0, 3), (16 + 3 + 12, 3), (1000, 4)):
        with pytest.raises(ValueError):
            tfrecord.read_payload(path, offset, size)


def test_files_can_be_concatenated(tmp_path):
    first, second = write(tmp_path / "1", [b"a", b"bb"]), write(tmp_path / "2", [b""])
    both = tmp_path / "both"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert list(tfrecord.read_records(both)) == [b"a", b"bb", b""]
    assert b"".join(tfrecord.framed_records(both)) == both.read_bytes()
