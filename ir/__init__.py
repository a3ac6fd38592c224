"""The intermediate representation: unrolled graphs of time steps, passes over them, and the loops they roll to.

Reading order: ops (the table of operations), graph (nodes and the builder), equations (what cells are
written with), lower (a stack of layers -> Graph), passes (Graph -> Graph), roll (Graph -> Program), program.
"""
