"""Charts with the questions they answer and their captions: what pages and the report both show, without Streamlit or torch."""
