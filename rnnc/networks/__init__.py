"""Networks of layers inside: their lowering to one graph, frames and delays, names of arrays, derivatives."""
