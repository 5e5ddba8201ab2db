"""Endurance of one server: hundreds of bad uploads, many cases in several sessions at once."""

import re
import time

import browser
import psutil
import pytest
from tiny_uploads import hostile

COUNT = 200
ROOM_MB = 300
SESSIONS, CASES = 4, 20


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.timeout(3000)
def test_bad_uploads_are_each_refused_on_the_page(tiny_model, chromium, tmp_path):
    kinds = [
        (files, message)
        for files, message in hostile()
        if "does not say which label scheme" not in message
    ]
    assert len(kinds) >= 12
    with browser.streamlit(browser.VIEWER, tmp_path, arguments=[f"--model={tiny_model}"]) as (
        address,
        log,
        process,
    ):
        reader = browser.Visitor(chromium, address)
        messages_by_kind = {}
        for turn in range(COUNT):
            files, expected = kinds[turn % len(kinds)]
            reader.page.goto(address)
            message = reader.upload(files)
            assert re.search(expected, message), (turn, message)
            assert messages_by_kind.setdefault(turn % len(kinds), message) == message
            assert "Traceback" not in reader.page.inner_text("body")
        assert process.poll() is None
        assert len(set(messages_by_kind.values())) >= 12
        messages = sorted(set(messages_by_kind.values()))
        print(f"{COUNT} bad uploads of {len(kinds)} kinds, {len(messages)} messages")
        for message in messages:
            print("  " + message)
        assert not reader.complaints and "Traceback" not in log.read_text()


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.timeout(3000)
def test_memory_is_freed_after_twenty_cases_in_four_sessions(
    run_tool, tiny_model, chromium, tmp_path
):
    cohort = tmp_path / "cohort"
    run_tool(
        "make_phantom.py", f"--output_dir={cohort}", f"--cases={CASES + 1}", "--seed=11", "--jobs=2"
    )
    before, *cases = [f"BraTS20_Training_{number:03d}" for number in range(1, CASES + 2)]
    with browser.streamlit(
        browser.VIEWER, tmp_path, arguments=[f"--model={tiny_model}", f"--cases_dir={cohort}"]
    ) as (address, log, process):
        server = psutil.Process(process.pid)
        started = resident_mb(server)
        readers = [browser.Visitor(chromium, address).open() for _ in range(SESSIONS)]
        for reader in readers:  # four renderings share two processors
            reader.page.set_default_timeout(180_000)
        readers[0].case(before)
        readers[0].segment()
        first, most = resident_mb(server), 0
        for start in range(0, CASES, SESSIONS):
            for reader, case_id in zip(readers, cases[start : start + SESSIONS]):
                reader.case(case_id)
                reader.press_segment()
            for reader, case_id in zip(readers, cases[start : start + SESSIONS]):
                reader.segmented()
                assert reader.page.get_by_role("combobox").first.input_value() == case_id
            most = max(most, resident_mb(server))
        for reader in readers:
            # Python may drop a file of a case before a busy browser has asked for it.
            assert not [text for text in reader.complaints if "404" not in text]
            reader.page.close()
        last, deadline = resident_mb(server), time.monotonic() + 400
        while last > first + ROOM_MB and time.monotonic() < deadline:
            time.sleep(5)
            last = resident_mb(server)
        print(
            f"server: {started} MB with no case, {first} MB after the first, at most {most} MB "
            f"in {SESSIONS} sessions, {last} MB after {CASES} more and the sessions' end"
        )
        assert last <= first + ROOM_MB
        assert "Traceback" not in log.read_text()


def resident_mb(process):
    return round(process.memory_info().rss / 1e6)
