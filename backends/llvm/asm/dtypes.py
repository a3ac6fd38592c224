"""The dtypes of arrays as LLVM's scalar types."""

SCALARS = {"float32": "float", "float64": "double"}
ELEMENT_BYTES = {"float32": 4, "float64": 8}
