"""Recurrent modules of PyTorch that run compiled code (docs/torch.md).

layers          LSTM, GRU, RNN, and Recurrent for any cell; cells: their single steps
base            what all share: parameters, their start, copies and pickles
calls           a call: which of the ways below it takes
engine          the compiled functions of a spec, and a model that is packed again only when a parameter changed
gradients       the autograd functions: first and second order, reverse and forward mode
tickets         what a call keeps for its gradients, for as long as PyTorch wants it
operators       a call in the graphs of torch.compile and torch.export
packed          PackedSequence
dropout         layer by layer, with PyTorch's dropout between them
accelerating    modules of torch.nn replaced by these
"""
