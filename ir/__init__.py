"""The intermediate representation: graphs of unrolled time steps, passes over them, and the loops they are rolled into.

Reading order: ops (the table of operations), graph (nodes and the builder), equations (what cells are
written with), lower (a stack of layers -> Graph), passes (Graph -> Graph), roll (Graph -> Program), program.
"""
