"""A closer look at single SAEs, one file a question: its inputs are found or made, its answer is an entry of the cache.

`inspect` is what commands, jobs and notebooks ask; `error_looks` and `map_looks` its questions about errors and maps.
"""
