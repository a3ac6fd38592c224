"""The functions that are generated: phases of a plan, the function that runs them, packers, sums, masks, updates."""
