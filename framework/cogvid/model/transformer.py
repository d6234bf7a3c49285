"""The CogVideo transformer: an image model with a second attention channel through time.

Shapes: B batch, L sequence, T text slots, F frames, N tokens of a frame, D width, H heads, K channels of a head,
V vocabulary. A sequence is [text, left-padded to T][frame 0][frame 1]...; the first input slot of every frame
is the begin-of-image token, slot i holds token i - 1 and predicts token i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cogvid.config.schema import Base, Gate, PlusInit, Positions
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.context import AttentionContext, FullSequence
from cogvid.model.rotary import rotate, rotation


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `CogVideoTransformer`.

    Attributes:
        layers, width, heads: of the transformer; the feed-forward is four times as wide.
        vocabulary: rows of the embedding; the first `image_vocabulary` are image tokens, the only ones predicted.
        text_length: T, text slots of a sequence.
        text_positions: rows of the position table before those of the first frame.
        grid: the frames of a sequence.
        positions: learned and absolute, or rotary in the plus channel; then every frame has the image model's
            learned positions of a first frame, and the plus channel alone tells frames apart.
        base, plus_init, gate, gate_init: where a video stage starts from, and what of it trains; see `start_video`.
        checkpoint_activations: recompute each block in the backward pass instead of storing it.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    image_vocabulary: int
    text_length: int
    text_positions: int
    grid: Grid
    positions: Positions = Positions.learned
    base: Base = Base.frozen
    plus_init: PlusInit = PlusInit.copy
    gate: Gate = Gate.learned
    gate_init: float = 0.0
    checkpoint_activations: bool = False


class CogVideoTransformer(nn.Module):
    """CogVideo of one stage (arXiv 2205.15868, section 3), or its image model alone.

    Args:
        config: the sizes.
        backend: attention of the plus channel; None leaves the plus channel out: the image model.
        stage: whose mask `forward` uses.
    """

    def __init__(
        self, config: TransformerConfig, backend: AttentionBackend | None, stage: Stage = "sequential"
    ) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
        self.config, self.backend, self.stage = config, backend, stage
        n = config.grid.frame_tokens
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width)
        self.position_embeddings = nn.Embedding(config.text_positions + n, config.width)
        later = config.grid.frames - 1 if backend and config.positions is Positions.learned else 0
        self.later_position_embeddings = nn.Embedding(later * n, config.width) if later else None
        self.layers = [Block(config, backend, layer) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(self.layers)
        self.final_norm = nn.LayerNorm(config.width)
        self.apply(_initialise)
        for block in self.layers:
            # Sandwich-LN gives every sublayer's output unit variance: the residual stream's should not grow
            # with depth, nor drown the embeddings at the start.
            for norm in (block.mixed_norm, block.fed_norm):
                nn.init.constant_(norm.weight, (2 * config.layers) ** -0.5)

    def forward(self, tokens: Tensor, *, text_mask: Tensor) -> Tensor:
        """Logits of a whole sequence.

        Args:
            tokens: int64 (B, L), fed as they are; `frame_inputs` makes the frames' part.
            text_mask: (B, T), 1 for text, 0 for the padding on the left.

        Returns:
            (B, L, V).
        """
        return F.linear(self.hidden(tokens, text_mask), self.word_embeddings.weight)

    def image_logits(self, tokens: Tensor, text_mask: Tensor, frames: Tensor | None = None) -> Tensor:
        """Logits over image tokens for the frame slots alone; training calls this one method.

        Args:
            tokens, text_mask: as for `forward`.
            frames: bool (F,), the frames whose logits are wanted; None for all F.

        Returns:
            (B, wanted frames * N, image vocabulary).
        """
        hidden = self.hidden(tokens, text_mask)[:, self.config.text_length :]
        if frames is not None:
            hidden = hidden.unflatten(1, (len(frames), -1))[:, frames].flatten(1, 2)
        return self.project(hidden)

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states to logits over the image tokens."""
        return F.linear(hidden, self.word_embeddings.weight[: self.config.image_vocabulary])

    def hidden(self, tokens: Tensor, text_mask: Tensor) -> Tensor:
        """States after the final norm, (B, L, D)."""
        text, grid = self.config.text_length, self.config.grid
        frames = (tokens.shape[1] - text) // grid.frame_tokens
        if tokens.shape[1] != text + frames * grid.frame_tokens or text_mask.shape[1] != text:
            raise ValueError(f"a sequence is {text} text slots and whole frames of {grid.frame_tokens} tokens")
        grid = Grid(frames, grid.height, grid.width)
        context = FullSequence(self.backend, grid, given_frames(self.stage, frames), text_mask.bool())
        slots = torch.arange(grid.tokens, device=tokens.device)
        return self.run(tokens, slots, text_mask, context)

    def run(self, tokens: Tensor, slots: Tensor, text_mask: Tensor, context: AttentionContext) -> Tensor:
        """States of some slots, attending through `context`; the one way through the layers.

        Args:
            tokens: (B, context.text + S): the text, where the context has it, then S frame slots.
            slots: flat indices of the frame slots on the grid, (S,), or (B, S) where samples are at different ones.
            text_mask: (B, T).
            context: who sees whom, and where keys and values come from.

        Returns:
            (B, context.text + S, D).
        """
        x = self.word_embeddings(tokens) + self.positions(slots, text_mask, context.text)
        angles = None  # the base channel has none: it stays the image model, which knows of one frame
        if self.backend is not None and self.config.positions is Positions.rotary:
            cos, sin = rotation(self.config.grid.position(slots), self.config.width // self.config.heads)
            angles = cos.unsqueeze(-3), sin.unsqueeze(-3)  # the same for all heads
        for block in self.layers:
            if self.config.checkpoint_activations and self.training:
                x = checkpoint(block, x, angles, context, use_reentrant=False)
            else:
                x = block(x, angles, context)
        return self.final_norm(x)

    def positions(self, slots: Tensor, text_mask: Tensor, text: int) -> Tensor:
        """Position embeddings: text counted from the first unpadded slot, then the frame slots."""
        n, first = self.config.grid.frame_tokens, self.config.text_positions
        image = self.position_embeddings(first + slots % n)
        if self.later_position_embeddings is not None:
            later = self.later_position_embeddings((slots - n).clamp(min=0))
            image = torch.where((slots < n)[..., None], image, later)
        image = image.expand(len(text_mask), -1, -1)
        if not text:
            return image
        counted = (text_mask.long().cumsum(1) - 1).clamp(min=0)
        return torch.cat([self.position_embeddings(counted), image], dim=1)

    def start_video(self, base: Mapping[str, Tensor]) -> None:
        """Begin a video stage from a trained image model, as published unless the configuration says something else:
        the plus channel starts as the base channel and learns, all else stays what it is (section 3.2).

        Args:
            base: the state of an image model of the same sizes, by name; from a mapped file it is in memory once.
        """
        self.load_state_dict(self.start(base), strict=False)
        self.freeze()

    def start(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a trained image model says of the state that a video stage starts with, by name.

        Beside a copied plus channel it leaves out the bias of the attention alone; of weights that all start at random
        it says what the gates are. Weights that are taken as they are share the memory of `base`; this network's own
        are not looked at: they may be on the meta device.

        Args:
            base: as for `start_video`.
        """
        state = {
            f"blocks.{n}.gate": torch.full(block.gate.shape, self.config.gate_init, dtype=block.gate.dtype)
            for n, block in enumerate(self.layers)
            if block.gate is not None
        }
        if self.config.base is Base.random:
            return state
        state |= base
        if self.config.plus_init is PlusInit.copy:
            for n in range(self.config.layers):
                channel, plus = f"blocks.{n}.base.", f"blocks.{n}.plus."
                state |= {plus + name.removeprefix(channel): w for name, w in base.items() if name.startswith(channel)}
        if self.later_position_embeddings is not None:
            image = base["position_embeddings.weight"][self.config.text_positions :]
            later = image.repeat(self.config.grid.frames - 1, 1, 1)
            if self.config.plus_init is PlusInit.random:
                # From copies alone, every slot would have to learn by itself which frame it is in.
                later = later + 0.5 * image.std() * torch.randn_like(later[:, :1])
            state["later_position_embeddings.weight"] = later.flatten(0, 1)
        return state

    def freeze(self) -> None:
        """Let only train what does in a video stage: with a frozen base the plus channel, the biases of its attention,
        the gates and the later frames' positions."""
        self.requires_grad_(self.config.base is not Base.frozen)
        for module in (self.later_position_embeddings, *(m for block in self.layers for m in (block.plus, block.bias))):
            if module is not None:
                module.requires_grad_(True)
        for block in self.layers:
            if block.gate is not None:
                block.gate.requires_grad_(self.config.gate is Gate.learned)


class Block(nn.Module):
    """Sandwich-LN around the mixed attention channels, then around the feed-forward (CogView, section 2.4)."""

    def __init__(self, config: TransformerConfig, backend: AttentionBackend | None, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.LayerNorm(config.width)
        self.base = Channel(config.width, config.heads)
        self.plus = Channel(config.width, config.heads) if backend else None
        self.bias = backend.bias(config.heads) if backend else None
        self.gate = nn.Parameter(torch.full((config.width,), config.gate_init)) if backend else None
        self.mixed_norm = nn.LayerNorm(config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.contract = nn.Linear(4 * config.width, config.width)
        self.fed_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, context: AttentionContext) -> Tensor:
        """(B, S, D) to (B, S, D); `angles`: the rotary positions of the plus channel's frame slots, if any."""
        x = x + self.mixed_norm(self.mix(self.attention_norm(x), angles, context))
        return x + self.feed(x)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward between its two norms, (B, S, D), kept."""
        return self.fed_norm(self.contract(F.gelu(self.expand(self.feed_norm(x)), approximate="tanh")))

    def mix(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, context: AttentionContext) -> Tensor:
        """`sigmoid(a) * base + (1 - sigmoid(a)) * plus` on frame slots, the base channel alone on text."""
        text = context.text
        base = self.base.merge(context.base(self.layer, *self.base.split(x)))
        if self.plus is None or self.gate is None:
            return base
        q, k, v = self.plus.split(x)
        if angles is not None:
            q, k = rotate(q, angles, text), rotate(k, angles, text)
        plus = self.plus.merge(context.plus(self.layer, q, k, v, self.bias))
        share = torch.sigmoid(self.gate)
        frames = share * base[:, text:] + (1 - share) * plus
        return torch.cat([base[:, :text], frames], dim=1) if text else frames


class Channel(nn.Module):
    """The projections of one attention channel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) to queries, keys and values (B, H, S, K)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def merge(self, y: Tensor) -> Tensor:
        """(B, H, S, K) to (B, S, D), through the output projection."""
        return self.out(y.transpose(1, 2).flatten(2))


def frame_inputs(codes: Tensor, begin_of_image: int) -> Tensor:
    """Image tokens to inputs: each frame shifted right by one slot, behind its begin-of-image token.

    Args:
        codes: int64 (B, F, N).
        begin_of_image: the token of slot 0.

    Returns:
        (B, F * N); the last token of a frame is never an input.
    """
    begin = torch.full_like(codes[..., :1], begin_of_image)
    return torch.cat([begin, codes[..., :-1]], dim=-1).flatten(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
