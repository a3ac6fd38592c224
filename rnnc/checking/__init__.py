"""Checks of arguments. They raise rnnc's own exceptions, before anything is computed."""
