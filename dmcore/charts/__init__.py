"""Tables in, charts out: pure polars to Altair, with no Streamlit, so that a notebook can draw what a page draws."""
