"""A study as one file that can be sent: sections of sentences, figures and tables, as HTML and as a folder of tables."""
