"""How a plan is laid on a chip: which products a kernel computes at once, and where weights stay."""
