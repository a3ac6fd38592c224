"""Planning: a Program scheduled into phases over buffers, the form from which code is generated for any machine.

Reading order: plan (what a plan is), planner (the steps to one), reading (how values read each other), placement (where
they are), levels (a group of values scheduled into phases), phases (one phase); keeping and hazards look at a plan.
"""
