import pytest

from brats_tfrecord.cohort import layouts
from brats_tfrecord.cohort.survey import id_range, survey
from brats_tfrecord.errors import InputError


@pytest.mark.parametrize("ids, text", [
    (["A_007"], "A_007, no gaps"),
    (["A_001", "A_002", "A_003"], "A_001 to A_003, no gaps"),
    (["A_003", "A_001", "A_008"], "A_001 to A_008, gaps at 2, 4-7"),
    (["one", "two"], "one to two, no gaps"),
])
def test_id_range_names_the_gaps(ids, text):
    assert id_range(ids) == text


def test_a_cohort_in_a_few_lines(small_cohort):
    text = "\n".join(survey(small_cohort, layouts.find_cases(small_cohort)))
    assert "5 patients, 5 cases (4 labelled" in text
    assert "BraTS20_Training_001 to BraTS20_Validation_001, no gaps" in text
    assert "96x92x72 (5)" in text and "LPS (5)" in text
    assert "0 1 2 4 (scheme brats2020)" in text
    assert "problem" not in text


def test_a_cohort_without_one_usable_case_is_refused(tmp_path):
    (tmp_path / "A_001").mkdir()
    (tmp_path / "A_001" / "A_001_t1.nii.gz").touch()
    with pytest.raises(InputError, match="none of its 1 cases can be used; A_001: no t1ce"):
        survey(tmp_path, layouts.find_cases(tmp_path))
