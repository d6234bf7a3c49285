"""Any pattern, computed by block-sparse flash attention in Triton; the kernels are in `kernels.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

import cogvid
from cogvid.config.schema import ComponentConfig
from cogvid.interfaces.attention import Attention, PatternRunner
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.naive import all_earlier


class Triton(PatternRunner):
    """The pattern of another backend, on a CUDA device.

    It computes nothing in another way where it cannot run: it says so.
    """

    carries_bias = False

    @dataclass
    class Config(PatternRunner.Config):
        """`pattern`: whose."""

        pattern: ComponentConfig = field(default_factory=all_earlier)

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        """See `cogvid.interfaces.attention.AttentionBackend`.

        Raises:
            UserError: there is no Triton, or no device that it can run on.
        """
        # Not at the top: the kernels need Triton, and an experiment is checked where it is not installed, too.
        if find_spec("triton") is None:
            raise cogvid.UserError(
                f"triton: cannot compute the pattern {self.inner.name}, because Triton is not installed; install "
                "`cogvid[triton]` (Linux), or use the pattern itself as the attention backend"
            )
        from cogvid_plugins.attention.triton.launch import INTERPRETED, BlockSparseAttention

        if device.type != "cuda" and not INTERPRETED:
            raise cogvid.UserError(
                f"triton: cannot compute the pattern {self.inner.name} on the device {device}, only on CUDA; use the "
                "pattern itself as the attention backend, or set TRITON_INTERPRET=1 to try the kernels, very slowly"
            )
        return BlockSparseAttention(mask, device)

    def tune(self, mask: Visibility, heads: int, head_size: int, dtype: torch.dtype, text: int) -> Any:
        """Measure how its kernels are launched best on the current GPU; see `tuning.tune`."""
        from cogvid_plugins.attention.triton.tuning import tune

        return tune(mask, heads, head_size, dtype, text)


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `triton`."""
    return {"triton": Triton}
