"""A training step for any backend: its protocol, random masks, sparse gradients, and a step made of compiled parts."""
