"""Files: one file that is a model, and weights from the files of others (docs/files.md).

named                   a path, checked; files that are replaced atomically, read or mapped
tensors, sealed         the safetensors format; rnnc's record in it, and the sums by which damage is found
models, unopened        `rnnc.save` and model files; models that read their weights at the first call
kinds, weights, loading `rnnc.load`: what a file is, told by its content; weights by name; `rnnc.take`
npz, pytorch, keras     the readers of other formats; archives: zip files that may be hostile
running                 `rnnc run` on the command line
"""
