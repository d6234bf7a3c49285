"""A run so small that the whole pipeline takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 24, test_clips: 16, durations: [1, 2]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}
model: {layers: 2, width: 32, heads: 2}
text: {length: 40}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
trainer: {log_every: 1}
stages:
  tokenizer: {steps: 6, batch_size: 8, adam_lr: 1.0e-3, checkpoint_every: 2}
  image_base: {steps: 6, batch_size: 4, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
  sequential: {steps: 6, batch_size: 2, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
  interpolation: {steps: 6, batch_size: 2, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
generation: {samples: 4, frames: 9, batch_size: 4}
evaluation:
  metrics:
    oracle: {name: shapes_oracle, options: {}}
variants:
  local: {}
  all: {attention: naive}
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The experiment itself."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment file in an empty folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path
