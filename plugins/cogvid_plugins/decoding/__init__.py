"""Decodings: see `cogvid.interfaces.decoding`."""
