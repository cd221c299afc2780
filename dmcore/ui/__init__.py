"""The only Streamlit in dmcore: selection, cached reads, figures and words that every page shares."""
