"""What decides all that a run makes, as one hash: a finished run with the same would do nothing."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version

from cogvid.pipeline.code import stage_code
from cogvid.pipeline.digests import named_files
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import as_plain
from cogvid.plugins.manager import plugin_sources

# With the image base, the three transformers; the speed with the samples.
_WORK = ("data", "text_tokenizer", "tokenizer", "tokens", "image_base", "samples", "metrics")


def made_of(lab: Lab) -> str:
    """A hash of a run's configuration, its data, the files that it names, and the code that its stages reach.

    It may be another where the stages are the same, such as with another exact decoding; never the other way round.
    """
    config = as_plain(lab.config)
    # The rest of it decides how long things take.
    config["trainer"] = {"precision": config["trainer"]["precision"]}
    components = [(part["kind"], part["name"]) for part in lab.used()]
    components += [("interpolation", name) for name in lab.floors()]
    infos = [lab.plugins.get(kind, name) for kind, name in components]  # type: ignore[arg-type]
    decides = {
        "config": config,
        # Of the plugins that are listed, those count whose components are used.
        "files": named_files({**config, "plugins": []}),
        "data": lab.data.fingerprint(),
        "plugins": [[info.version, plugin_sources(info)] for info in infos],
        "code": {stage: stage_code(stage) for stage in _WORK},
        "cogvid": version("cogvid"),
    }
    return hashlib.sha256(json.dumps(as_plain(decides), sort_keys=True).encode()).hexdigest()
