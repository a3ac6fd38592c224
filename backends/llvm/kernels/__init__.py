"""The generated functions: phases of a plan, the function that runs them, packers, sums, masks, updates."""
