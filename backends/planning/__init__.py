"""Planning: a Program scheduled into phases over buffers, the form from which code is generated for any machine.

Reading order: plan (what a plan is), reading (how values read each other), levels (a step scheduled into phases),
planner (the plan of a whole program).
"""
