"""Which held-out losses share a column: those on the same sequences, seed by seed.

A held-out sequence is in the codes of the run's own frame tokenizer, which another seed trains anew. So two seeds never
see the same sequences. Variants do, in each seed that they have in common, and a difference paired by seed asks for no
more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cogvid.compare.read import TRAINING_STAGES
from cogvid.compare.variants import Variant

# What a stage says its held-out sequences are, all of them in one hash.
DIGEST = "digest"


@dataclass
class _Shared:
    """Sequences by seed, and the variants that have seen no others."""

    digests: dict[int, str] = field(default_factory=dict)
    variants: list[str] = field(default_factory=list)


class HeldOutSequences:
    """Of some variants."""

    def __init__(self, variants: Iterable[Variant]) -> None:
        self._shared: dict[tuple[str, str], list[_Shared]] = {}
        for variant in variants:
            for stage in TRAINING_STAGES:
                seen: dict[str, dict[int, str]] = {}
                for run in variant.runs:
                    record = run.stages[stage].held_out_on if stage in run.stages else {}
                    if DIGEST in record:
                        seen.setdefault(_rest(record), {})[run.seed] = record[DIGEST]
                for rest, digests in seen.items():
                    known = self._shared.setdefault((stage, rest), [])
                    fitting = (each for each in known if _agree(each.digests, digests))
                    shared = next(fitting, None)
                    if shared is None:
                        known.append(shared := _Shared())
                    shared.digests |= digests
                    shared.variants.append(variant.label)

    def record(self, stage: str, variant: str, record: dict[str, Any]) -> dict[str, Any]:
        """What a held-out loss of a variant was measured on, equal for all that may share a column with it."""
        for shared in self._shared.get((stage, _rest(record)), []):
            if variant in shared.variants:
                digests = {f"sequences of seed {seed}": digest for seed, digest in sorted(shared.digests.items())}
                return {name: value for name, value in record.items() if name != DIGEST} | digests
        return record


def _rest(record: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in record.items() if name != DIGEST}, sort_keys=True)


def _agree(one: dict[int, str], other: dict[int, str]) -> bool:
    """Whether two variants saw the same in every seed that they have in common, and have one."""
    both = one.keys() & other.keys()
    return bool(both) and all(one[seed] == other[seed] for seed in both)
