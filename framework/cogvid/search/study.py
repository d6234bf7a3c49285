"""The trials of a search, written down in a journal of Optuna as they come, so that any kill leaves them there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from cogvid.config.schema import SearchConfig
from cogvid.config.space import Dimension
from cogvid.search.suggest import distributions, suggest
from cogvid.search.trial import Phase, Trial, as_said

_NAME = "search"
_CAUSE, _AT, _PROTOCOL = "cause", "pruned_at", "protocol"
_PHASES: dict[TrialState, Phase] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Study:
    """All trials of a search. Only one process may have a journal at a time.

    Args:
        journal: its file, lines of JSON; made where there is none.
        search: what is searched, and how.
        space: its dimensions.
        better: `lower` or `higher` values of the target.
        seed: of what is drawn.
    """

    def __init__(self, journal: Path, search: SearchConfig, space: Sequence[Dimension], better: str, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _mend(journal)
        self._search, self._space, self._seed = search, distributions(space), seed
        self._direction = StudyDirection.MAXIMIZE if better == "higher" else StudyDirection.MINIMIZE
        # Optuna prunes in the direction of the target, and a loss is better where it is lower.
        self._sign = -1 if better == "higher" else 1
        self._storage = JournalStorage(JournalFileBackend(str(journal)))
        self._pruner = MedianPruner(n_startup_trials=search.startup)
        self._study = optuna.create_study(
            storage=self._storage, study_name=_NAME, direction=self._direction, load_if_exists=True
        )

    @property
    def trials(self) -> list[Trial]:
        """All of them, by number."""
        return [_trial(frozen) for frozen in self._frozen()]

    @property
    def best(self) -> Trial | None:
        """The finished one with the best value, the first of equals; None where none is finished."""
        finished = [trial for trial in self.trials if trial.phase == "finished" and trial.value is not None]
        return min(finished, key=lambda trial: self._sign * (trial.value or 0), default=None)

    def begin(self) -> Trial:
        """The next trial; written down whole, before anything of it is done."""
        values = suggest(
            self._frozen(),
            self._space,
            direction=self._direction,
            seed=self._seed,
            startup=self._search.startup,
            sampler=self._search.sampler,
        )
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=self._space))
        return self.trials[-1]

    def is_pruned_at(self, number: int, step: int, loss: float) -> bool:
        """Tell of a held-out loss of a running trial; whether it should be pruned for it.

        The answer depends on nothing but this trial's losses up to the step and those of the finished ones, so a loss
        may be told of again.
        """
        identity = self._identity(number)
        if step not in self._frozen()[number].intermediate_values:
            self._storage.set_trial_intermediate_value(identity, step, self._sign * loss)
        frozen = self._frozen()[number]
        return frozen.last_step == step and self._pruner.prune(self._study, frozen)

    def finish(self, number: int, value: float, protocol: str) -> Trial:
        """End a running trial with the value of its target.

        Args:
            number: of the trial.
            value: finite.
            protocol: the hash of how it was measured; a trial whose values cannot be compared with those of the ones
                before it has failed.
        """
        earlier = [t for t in self._frozen() if t.state is TrialState.COMPLETE]
        others = [trial.number for trial in earlier if trial.user_attrs.get(_PROTOCOL) != protocol]
        if others:
            return self.fail(
                number,
                f"its value, {value:.6g}, was not measured as that of trial {others[0]}, and cannot be compared with "
                "it: search.space changes what the target is measured on",
            )
        self._storage.set_trial_user_attr(self._identity(number), _PROTOCOL, protocol)
        self._study.tell(number, value)
        return self.trials[number]

    def prune(self, number: int, stage: str, step: int) -> Trial:
        """End a running trial that does too badly at a step of a stage."""
        self._storage.set_trial_user_attr(self._identity(number), _AT, f"at step {step} of {stage}")
        self._study.tell(number, state=TrialState.PRUNED)
        return self.trials[number]

    def fail(self, number: int, cause: str) -> Trial:
        """End a running trial that failed."""
        self._storage.set_trial_user_attr(self._identity(number), _CAUSE, cause)
        self._study.tell(number, state=TrialState.FAIL)
        return self.trials[number]

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _identity(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)


def _trial(frozen: FrozenTrial) -> Trial:
    phase, attributes = _PHASES[frozen.state], frozen.user_attrs
    value = frozen.value if phase == "finished" else None
    note = {"failed": attributes.get(_CAUSE, ""), "pruned": attributes.get(_AT, "")}.get(phase, "")
    return Trial(frozen.number, {key: _said(given) for key, given in frozen.params.items()}, phase, value, note)


def _said(given: Any) -> str:
    """Choices are text already, as the command line says them."""
    return given if isinstance(given, str) else as_said(given)


def _mend(journal: Path) -> None:
    """Undo what a kill may leave: half a line, which would spoil the next, and the lock of whoever is gone."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)
