"""What checks arguments: each module raises rnnc's own exceptions, before anything is computed."""
