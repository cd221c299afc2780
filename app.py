"""The dark-matter explorer: `streamlit run app.py`. Page list and navigation, nothing else."""

from pathlib import Path

import streamlit as st

# Not in a folder called `pages`: Streamlit would list that one by itself, and the first visitor would see its list.
PAGES = Path(__file__).parent / "views"

st.set_page_config(
    page_title="Dark-matter explorer", page_icon=str(PAGES.parent / "dmcore" / "ui" / "icon.svg"), layout="wide"
)
st.navigation(
    [
        st.Page(PAGES / "overview.py", title="Overview", icon=":material/donut_large:", default=True),
        st.Page(PAGES / "regression.py", title="Regression", icon=":material/timeline:", url_path="regression"),
    ]
).run()
