"""Work in the background: the `queue` in the cache folder, the `worker` that owns a device, and each job's own process (`child`).

`heartbeat`, `liveness` and `takeover`: how one that hangs is told from one that works. `disk`: deleting what no job needs.
"""
