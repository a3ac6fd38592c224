"""Decoding: a network that reads its own last choice, step by step, in one call (`rnnc.Decoder`)."""

from rnnc.decoding.choices import Beam, Choice, Greedy, Sample
from rnnc.decoding.decoder import Decoder
from rnnc.decoding.decoding import Decoding
from rnnc.decoding.pieces import Decoded

__all__ = ["Beam", "Choice", "Decoded", "Decoder", "Decoding", "Greedy", "Sample"]
