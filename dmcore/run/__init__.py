"""Doing the work: the pipeline of a study, and the command line.

`plan`, `pipeline`, `sae_stages`, `scale`: a sweep, on this machine or on many (`engines`, `cluster/`). `looks/`: what is asked of
single SAEs afterwards. `estimates/`: what a study would take, before it begins. `jobs/`: the queue and its workers. `host/`: the
machine, and who may use it. `commands/`: the command line, over all of them; `notebook`: the same from Python.
"""
