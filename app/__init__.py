"""The viewer. Start it with `streamlit run app/viewer.py`."""
