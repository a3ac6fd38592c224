"""Planning: a Program scheduled into phases over buffers, the form from which code is generated for any machine.

Reading order: plan (the data), planner (the sequence of steps), reading (how values read each other), placement (the
buffers), levels (scheduling a group of values into phases), phases (one phase), grids (units with several axes).
keeping and hazards analyse a finished plan.
"""
