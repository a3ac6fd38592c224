"""Exporting: a bound network as a native library that needs neither Python nor rnnc."""
