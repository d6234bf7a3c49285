"""Text fidelity: whether frames show what the caption says, by a network that reads both, such as CLIP.

Shapes: B videos, F frames, d values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import ExtractorMetric, Reading, VideoExtractor
from cogvid.metrics.jackknife import shuffled


class TextFidelity(ExtractorMetric):
    """Mean cosine similarity of generated frames and their captions (CLIPSIM of Wu et al., 2021).

    `compute` gives `text_fidelity`, from -1 to 1, and `text_fidelity_se`, its standard error over videos; NaN without
    videos. Real videos are ignored: the set of real ones, scored as any other, says what can be reached.

    Raises:
        UserError: the extractor does not read single frames and captions into values of one size.
    """

    reads_real = False

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(extractor, config)
        if not (extractor.per_frame and extractor.text_size):
            raise UserError(
                f"The extractor {extractor.name} does not read single frames and captions, and text fidelity needs one "
                "that does: a YAML file with `layout: BCHW` and a `text` part."
            )
        if extractor.feature_size != extractor.text_size:
            raise UserError(
                f"The extractor {extractor.name} reads frames into {extractor.feature_size} values and captions into "
                f"{extractor.text_size}; their similarity needs equally many."
            )
        self._add_rows_state("similarities", 1)

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read, with the captions of the videos."""
        if real:
            return
        texts = self.extractor.texts(captions)
        assert texts is not None, "`text_size` says that captions can be read"
        similarity = F.cosine_similarity(reading.features.double(), texts.double()[:, None], dim=-1)
        self._append("similarities", similarity.mean(1, keepdim=True))

    def compute(self) -> dict[str, Tensor]:
        """`text_fidelity` and `text_fidelity_se`."""
        rows = shuffled(self._rows("similarities"))
        error = rows.std() / math.sqrt(len(rows)) if len(rows) > 1 else torch.tensor(math.nan, dtype=torch.float64)
        return {"text_fidelity": rows.mean(), "text_fidelity_se": error}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        text = "Mean similarity of a video's frames and its caption, as the network sees both; -1 to 1."
        title = f"Text fidelity{self.extractor.of()}"
        return {"text_fidelity": Meaning(title, text, "higher", error="text_fidelity_se", headline=True)}

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable, sample count included."""
        return super().protocol | {"generated_samples": len(self._rows("similarities"))}
