"""What pages and the report say in sentences, made from the numbers: text in light Markdown, without Streamlit or torch."""
