import pytest

from brats_tfrecord.wording import duration


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00:00"), (59.6, "0:01:00"), (3599, "0:59:59"), (360000, "100:00:00")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
