"""`rnnc.draw`: pictures of networks as people draw recurrent nets, layers upward and time to the right."""

from rnnc.drawing.drawing import draw

__all__ = ["draw"]
