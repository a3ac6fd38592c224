"""Model files in the ONNX format: `rnnc.from_onnx` (docs/onnx.md).

file, reading, stored, order    a file as plain data
sizes, values, trace            what can be known of it without a call; ops: the operators
recurrent, activations, cells   RNN, GRU and LSTM nodes as specs and cells
scan_form, body_cell            a Scan as a cell; rolling: steps that are written out as a Scan
directions                      recurrent nodes between reversals
places, building, segment       tensors of any shape in a network of (T, B, N); a part of a file as a rnnc.Graph
parts, plan, late, foreign      which node runs where; left: what says that one cannot be compiled
network, recent, readers         what the user holds, what it keeps, and how a call's values are read
"""
