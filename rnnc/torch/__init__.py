"""PyTorch's modules as networks: `rnnc.from_torch` (docs/from-torch.md). Torch is imported when it is called.

tracing         forward() as a torch.fx graph of calls
traced          what is known of a tensor of it: a value of the network, and what its axes are
guesses         what the axes of the inputs may be; reading: from call to call, for one guess
modules         torch.nn's modules as layers; recurrent: those that are specs
functions       functions and methods of tensors; elementwise: arithmetic and activations; axes: other axes
building        the layers found so far, and which parameter of the module is which of the network
borders         axes of arrays in another order, at the call
state_dict      parameters back into a state_dict
network         what the user holds
"""
