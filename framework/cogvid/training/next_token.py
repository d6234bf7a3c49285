"""What one optimiser step of a transformer's stage is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn import functional as F

from cogvid.config.schema import InterpolationStageConfig, StageConfig
from cogvid.interfaces.mask import given_frames
from cogvid.interfaces.share import Share
from cogvid.model.transformer import CogVideoTransformer, frame_inputs
from cogvid.training.held_out import HELD_OUT, frame_name
from cogvid.training.modules import StageModule
from cogvid.training.sharding import Sharding


class TransformerModule(StageModule):
    """Learns next tokens; a batch is codes (B, F, N), text tokens (B, T) and their mask (B, T).

    The image base learns its one frame, the interpolation stage the frames that are not given, and the sequential
    stage all frames, without the first where the image model generates it.
    """

    network: CogVideoTransformer

    def __init__(
        self,
        network: CogVideoTransformer,
        config: StageConfig,
        begin_of_image: int,
        *,
        image_model_first: bool = True,
        parts: int = 1,
        sharding: Sharding | None = None,
    ) -> None:
        """Args: network; config; begin_of_image: the token of a frame's slot 0; image_model_first:
        whether the image model generates the first frame; parts: of a step's batch; sharding: of the network, which
        is on the meta device then."""
        super().__init__(network, config, parts)
        self.sharding = sharding
        self.begin_of_image, self.image_model_first = begin_of_image, image_model_first
        self.token_noise = config.token_noise if isinstance(config, InterpolationStageConfig) else 0.0

    def compile_network(self) -> None:
        """Compile the feed-forward of the blocks: of one form, it is compiled once. Attention has ways of its own."""
        for block in self.network.layers:
            block.feed = torch.compile(block.feed)  # type: ignore[method-assign]

    def configure_model(self) -> None:
        """Give each process its shard of the weights, where they are not whole in all of them."""
        if self.sharding is not None:
            mesh, device = self.device_mesh, self.trainer.strategy.root_device
            assert mesh is not None
            self.sharding.share_out(self.network, self.network.layers, mesh["data_parallel"], device)
            register_fsdp_forward_method(self.network, "image_logits")

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy of the generated frames."""
        predicted, wanted, _ = self._predictions(batch, self.share(index) if self.token_noise else None)
        return self.report(F.cross_entropy(predicted.flatten(0, 2), wanted.flatten()))

    def held_out(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Nats a token: of all generated frames, and of each by its number in the sequence."""
        predicted, wanted, numbers = self._predictions(batch)
        losses = F.cross_entropy(predicted.flatten(0, 2).float(), wanted.flatten(), reduction="none")
        frames = losses.view(wanted.shape).mean(2)
        by_frame = {frame_name(number): frames[:, place] for place, number in enumerate(numbers.tolist())}
        return {HELD_OUT: frames.mean(1), **by_frame}

    def _predictions(
        self, batch: tuple[Tensor, Tensor, Tensor], noise: Share | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, G, N, V) of the generated frames, their codes (B, G, N), and their numbers (G,).

        Args:
            batch: see above.
            noise: disturb the inputs; which samples these are.
        """
        codes, text, text_mask = batch
        model = self.network
        frames = codes.shape[1]
        given = torch.tensor(given_frames(model.stage, frames), device=codes.device)
        if model.backend is not None and model.stage == "sequential":
            given[0] = self.image_model_first
        inputs = frame_inputs(codes, self.begin_of_image).unflatten(1, (frames, -1))
        if noise is not None:
            inputs = self._noisy(inputs, given, noise)
        tokens = torch.cat([text, inputs.flatten(1)], dim=1)
        wanted = codes[:, ~given]
        predicted = model.image_logits(tokens, text_mask, ~given).view(*wanted.shape, -1)
        return predicted, wanted, (~given).nonzero()[:, 0]

    def _noisy(self, inputs: Tensor, given: Tensor, share: Share) -> Tensor:
        """Inputs (B, F, N), some of the frames to generate taken from given frames: wrong, and yet likely ones."""
        sources, whole = given.nonzero()[:, 0], (share.whole(len(inputs)), *inputs.shape[1:])
        others = inputs.gather(1, sources[share.of(torch.randint(len(sources), whole, device=inputs.device))])
        noisy = share.of(torch.rand(whole, device=inputs.device)) < self.token_noise
        return torch.where(noisy & ~given[:, None], others, inputs)
