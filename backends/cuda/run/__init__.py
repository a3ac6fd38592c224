"""Running code on a device: arrays, launches, calls, and training steps."""
