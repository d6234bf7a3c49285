"""Samples of an experiment's data for people: a page that needs nothing else, and a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from cogvid.errors import UserError
from cogvid.inspect.data_samples import Sample, Samples
from cogvid.pipeline.pictures import contact_sheet, gif
from cogvid.pipeline.stage import as_plain, write_whole

PAGE, SHEET = "samples.html", "samples.png"


def write_samples(samples: Samples, folder: Path) -> list[Path]:
    """Write the page and the contact sheet, in place of those of an earlier call.

    Args:
        samples: to show.
        folder: made if it is not there.

    Returns:
        The files.

    Raises:
        UserError: they cannot be written.
    """
    contents = {PAGE: _page(samples).encode(), SHEET: contact_sheet([*_rows(samples)])}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}. Choose another folder.") from error
    return [folder / name for name in contents]


def _rows(samples: Samples) -> Iterator[tuple[str, Tensor]]:
    for sample in samples.samples:
        numbers = " ".join(map(str, sample.numbers))
        yield f"{sample.text} · {sample.clip.clip.id}, {sample.drawn.rate:g}/s, frames {numbers}", sample.frames
        if sample.reconstruction is not None:
            yield f"its reconstruction, {sample.psnr:.1f} dB", sample.reconstruction


def _page(samples: Samples) -> str:
    environment = Environment(
        loader=PackageLoader("cogvid.inspect", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config = samples.lab.config
    return environment.get_template("data_page.html.j2").render(
        name=config.name,
        variant=config.variant,
        settings={
            key: _words(as_plain(getattr(config, key)))
            for key in ("data", "video", "frame_rate", "frame_tokenizer", "text_tokenizer", "text")
        },
        samples=samples,
        slots=config.text.length,
        pictures=[_pictures(sample) for sample in samples.samples],
    )


def _words(value: Any) -> str:
    """Settings as they stand in an experiment."""
    if isinstance(value, dict) and "name" in value:
        options = _words(value["options"])
        return f"{value['name']} ({options})" if options else str(value["name"])
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return str(value)


def _pictures(sample: Sample) -> dict[str, tuple[str, list[str]]]:
    """For each row of a sample: what plays, and its frames, as data URLs."""
    rows = {"frames": sample.frames}
    if sample.reconstruction is not None:
        rows["reconstruction"] = sample.reconstruction
    step = sample.drawn.seconds / max(len(sample.frames) - 1, 1)
    return {
        name: (_url("gif", gif(video, step)), [_url("png", _png(image)) for image in video])
        for name, video in rows.items()
    }


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
