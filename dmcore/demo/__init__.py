"""The builder of the embedded default: a small language model, its SAEs and held-out text, and their report.

`python -m dmcore.demo build` makes `dmcore/demo/artifacts/`, which is read like any other study.
"""
