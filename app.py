"""The dark-matter explorer: `streamlit run app.py`. Who may see it, page list and navigation, nothing else."""

from pathlib import Path

import streamlit as st

from dmcore.ui.server_logs import set_up_logs
from dmcore.ui.sign_in import admitted, draw_gate, draw_who
from dmcore.ui.wanted import go_on

PAGES = Path(__file__).parent / "pages"

st.set_page_config(
    page_title="Dark-matter explorer", page_icon=str(PAGES.parent / "dmcore" / "ui" / "icon.svg"), layout="wide"
)
set_up_logs()
welcome = admitted()
pages = [
    st.Page(PAGES / "overview.py", title="Overview", icon=":material/donut_large:", default=True),
    st.Page(PAGES / "regression.py", title="Regression", icon=":material/timeline:", url_path="regression"),
    st.Page(PAGES / "scaling.py", title="Scaling", icon=":material/trending_down:", url_path="scaling"),
    st.Page(PAGES / "nonlinear.py", title="Nonlinear error", icon=":material/blur_on:", url_path="nonlinear"),
    st.Page(PAGES / "reduction.py", title="Error reduction", icon=":material/compress:", url_path="reduction"),
    st.Page(PAGES / "downstream.py", title="Downstream", icon=":material/water_drop:", url_path="downstream"),
    st.Page(PAGES / "synthetic.py", title="Synthetic", icon=":material/science:", url_path="synthetic"),
    st.Page(PAGES / "controls.py", title="Controls", icon=":material/fact_check:", url_path="controls"),
    st.Page(PAGES / "catalogue.py", title="Catalogue", icon=":material/library_books:", url_path="catalogue"),
    st.Page(PAGES / "runs.py", title="Runs", icon=":material/play_circle:", url_path="runs"),
    st.Page(PAGES / "health.py", title="Health", icon=":material/monitor_heart:", url_path="health"),
]
page = st.navigation(pages, position="sidebar" if welcome else "hidden")
if welcome:
    go_on(pages, page)
    draw_who()
    page.run()
else:
    draw_gate()
