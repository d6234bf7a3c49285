"""The files of a sampled clip: what it is, its tokens, and videos of it; each file is whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.video import VideoWriter
from cogvid.errors import UserError
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.generate import to_videos
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.pictures import enlarge, gif
from cogvid.pipeline.stage import Info, alone, write_whole
from cogvid.pipeline.tensor_file import write_tensors

# A file name may have 255 bytes; the words of the prompt get these.
_WORDS = 80
# Frames that are decoded at once: always the same ones, since a decoder's rounding may depend on how many there are.
_DECODED = 16
_GIF_FRAMES = 64


@dataclass(frozen=True)
class Request:
    """Everything that decides a clip.

    Attributes:
        prompt: what it shows.
        sample: how many clips of this prompt come before it.
        seed: of the randomness.
        frames: of the finished clip.
        seconds: from its first frame to its last.
        settings: the models, how they are sampled, and the version of cogvid, as JSON.
    """

    prompt: str
    sample: int
    seed: int
    frames: int
    seconds: float
    settings: Info

    @property
    def name(self) -> str:
        """A file name for this prompt, seed and sample alone."""
        words = "".join(c if c.isalnum() else " " for c in self.prompt).split()
        name = "_".join(words).encode()[:_WORDS].decode(errors="ignore")
        if name.replace("_", " ") != self.prompt.lower():
            # The words do not say the whole prompt: another one may have the same, on some disks if only in capitals.
            name += "-" * bool(name) + hashlib.sha256(self.prompt.encode()).hexdigest()[:10]
        return f"{name}-{self.seed}-{self.sample}"

    def to_json(self) -> str:
        """The same text for equal requests."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


class ClipFiles:
    """Where a clip's files stand in a folder.

    Args:
        folder: for the files of all clips.
        request: what the clip is.
        gif: whether an animated GIF is wanted beside the mp4.
    """

    def __init__(self, folder: Path, request: Request, gif: bool) -> None:
        self.folder, self.request = folder, request
        self._wanted = [".safetensors", ".mp4", *([".gif"] if gif else [])]

    def path(self, suffix: str) -> Path:
        """The clip's file with this suffix: .json, .safetensors, .mp4 or .gif."""
        return self.folder / (self.request.name + suffix)

    @property
    def missing(self) -> list[str]:
        """Suffixes of the wanted files that are not there yet; none for a finished clip."""
        return [suffix for suffix in self._wanted if not self.path(suffix).exists()]

    def codes(self) -> Tensor:
        """The clip's tokens, int64 (frames made by the models, N), once its file is there."""
        return load_file(self.path(".safetensors"))["codes"].long()

    def check(self) -> None:
        """Refuse files of these names that belong to another clip.

        Raises:
            UserError: there are some; the message names the first.
        """
        said = self.path(".json")
        if said.exists():
            if said.read_text(encoding="utf-8") != self.request.to_json():
                raise UserError(f"{said} holds another clip{self._differences(said)}; {_ELSEWHERE}")
            return
        for suffix in (".safetensors", ".mp4", ".gif"):
            if self.path(suffix).exists():
                raise UserError(f"{self.path(suffix)} holds another clip, none of `cogvid sample`; {_ELSEWHERE}")

    @contextmanager
    def at_work(self, wait: bool) -> Iterator[None]:
        """Say what the clip is, before it is begun, and keep other processes from making it meanwhile.

        Args:
            wait: for another process that makes it.

        Raises:
            UserError: another process makes it and is not waited for, or the name belongs to another clip.
        """
        self.check()
        said = self.path(".json")
        if not said.exists():
            write_whole(said, self.request.to_json().encode())
        with alone(said, said, wait):
            yield

    def _differences(self, said: Path) -> str:
        try:
            old, new = (json.loads(text) for text in (said.read_text(encoding="utf-8"), self.request.to_json()))
            old, new = ({**request, **request["settings"]} for request in (old, new))
            changed = [key for key in new if key != "settings" and old.get(key) != new[key]]
        except (ValueError, KeyError, TypeError):
            return ""
        # Of the settings, whole blocks, the names have to do.
        values = {key: "" if key in new["settings"] else f" {old.get(key)} there, {new[key]} now" for key in changed}
        return f" ({'; '.join(key + value for key, value in values.items())})"


_ELSEWHERE = "choose another --out or --seed, or move it away. Nothing was changed."


class ClipWriter:
    """Makes the missing files of a clip from its tokens, frame after frame, in memory that its length does not change.

    As a context manager: the files get their names in `finish`, none of them before the tokens.

    Args:
        lab: the experiment's parts.
        tokenizer: decodes the tokens.
        files: of the clip.
    """

    def __init__(self, lab: Lab, tokenizer: FrameTokenizer, files: ClipFiles) -> None:
        self._lab, self._tokenizer, self._files = lab, tokenizer, files
        self._missing = files.missing
        self._codes: list[Tensor] = []
        self._waiting = torch.empty(0, lab.grid.frame_tokens, dtype=torch.long)
        self._gif: list[Tensor] = []
        self._shown = 0
        request = files.request
        self._rate = (request.frames - 1) / request.seconds if request.seconds else 1.0
        self._gif_every = -(-request.frames // _GIF_FRAMES)

    def __enter__(self) -> ClipWriter:
        self._stack = ExitStack()
        self._video: VideoWriter | None = None
        if ".mp4" in self._missing:
            self._video = VideoWriter(self._files.path(".mp4"), self._rate, lossless=False)
            self._stack.enter_context(self._video)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, codes: Tensor) -> None:
        """The next frames' tokens, int64 (f, N)."""
        self._codes.append(codes.int())
        self._waiting = torch.cat([self._waiting, codes])
        while self._lab.strategy.learned and len(self._waiting) >= _DECODED:
            self._show(self._decode(self._waiting[:_DECODED]))
            self._waiting = self._waiting[_DECODED:]

    def finish(self) -> None:
        """Write what is left; the clip is finished then."""
        if not self._lab.strategy.learned:
            self._show(fill(self._lab, self._decode(self._waiting)))
        elif len(self._waiting):
            self._show(self._decode(self._waiting))
        if ".safetensors" in self._missing:
            write_tensors(self._files.path(".safetensors"), {"codes": torch.cat(self._codes)})
        self._stack.close()
        if ".gif" in self._missing:
            write_whole(self._files.path(".gif"), gif(torch.stack(self._gif), self._gif_every / self._rate))

    def _decode(self, codes: Tensor) -> Tensor:
        return to_videos(self._lab, self._tokenizer, codes[None])[0]

    def _show(self, frames: Tensor) -> None:
        """Append finished frames uint8 (f, 3, height, width) to the videos."""
        if self._video is not None:
            self._video.add(enlarge(frames))
        if ".gif" in self._missing:
            first = -self._shown % self._gif_every
            self._gif += frames[first :: self._gif_every].unbind()
        self._shown += len(frames)


def fill(lab: Lab, key_frames: Tensor) -> Tensor:
    """Key frames uint8 (F, 3, height, width) to all frames of a finished clip, by a strategy without a model."""
    return lab.strategy.fill(key_frames[None], lab.config.generation.frames)[0]
