"""Generated code under valgrind's memcheck: `make sanitize` (docs/fuzzing.md).

Reading order: workload (what runs), reports (what valgrind says of it), __main__ (runs the parts and judges them).
"""
