"""The app's modules import each other by name, as `streamlit run` lets them."""

import sys
from pathlib import Path

APP = Path(__file__).parents[2] / "app"
if str(APP) not in sys.path:
    sys.path.insert(0, str(APP))
