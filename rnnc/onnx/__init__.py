"""Model files in the ONNX format: `rnnc.from_onnx` (docs/onnx.md).

file, reading, stored, order    a file as plain data
sizes, values, trace, neutral   what can be known of a file without a call; ops: the operators
recurrent, activations, cells   RNN, GRU and LSTM nodes as specs and cells
scan_form, loop_form            a Scan or a Loop as a cell (body_cell); rolling: written-out steps as a Scan
directions                      recurrent nodes between reversals
places, building, segment       tensors of any shape in a network of (T, B, N); a part of a file as a rnnc.Graph
frames                          the positions of a chunk as steps
parts, plan, late, foreign      which node runs where; left: the exception that says why a node is not compiled
direct, slabs                   calls that enter machine code with the arrays of the file
network, recent, readers        the object that from_onnx returns, its compiled plans, and the values of a call
"""
