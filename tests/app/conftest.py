"""What the app's tests share: its modules on the path, as `streamlit run` puts them, a Chromium."""

import os
import shutil
import sys
from pathlib import Path

import browser
import pytest

APP = Path(__file__).parents[2] / "app"
if str(APP) not in sys.path:
    sys.path.insert(0, str(APP))


@pytest.fixture(scope="session")
def chromium():
    """A real Chromium; skips without one, unless BROWSER_TESTS=required."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not executable:
        message = "no Chromium found: install chromium or name it in CHROMIUM"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable,
                                             args=browser.CHROMIUM_FLAGS.split())
        yield started
        started.close()
