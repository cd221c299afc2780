"""A study on a Ray cluster. `ray` is imported only here, and only when a study is run with it.

`shards`: how the contexts are cut; `shard_work`: what is done with one; `joined`: shards put together again. These know
nothing of Ray. `connect`: reach or start a cluster; `nodes`: which there are, and whether they are fit; `tasks`: what they run;
`crew`: tasks in flight, retried where a node was lost; `board`: progress of all nodes; `weights`: files brought to a node once;
`held`, `node_cache`: folders that a node's processes use together; `engine`: the sweep.

Ray's own processes speak to each other in pickles and run what they are sent: who can reach a cluster's ports can run programs
on its nodes. So a cluster must be trusted, and its network be closed to others. Nothing that is stored is pickled.
"""
