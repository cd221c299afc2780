"""Doing the work: the pipeline of a study, and the command line."""
