"""Sees a search through: starts trials, ends those that need not go on, and writes down what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cogvid.ablation.launcher import Launcher, Standing
from cogvid.ablation.state import Watch
from cogvid.compare.trouble import LOG, add_last_words
from cogvid.search.losses import held_out_losses, is_finished
from cogvid.search.study import Study
from cogvid.search.table import Shown
from cogvid.search.target import Target, value_of
from cogvid.search.trial import Trial, TrialJob

# Seconds between looks.
_EVERY = 0.5


@dataclass(frozen=True)
class Goal:
    """When a trial is over.

    Attributes:
        target: has its value then.
        whole: the run comes to its end for it, even where the value is known before.
        prune: the stage whose held-out losses may end it before; None for none.
        steps: of that stage, unless a trial has others.
    """

    target: Target
    whole: bool
    prune: str | None
    steps: int

    def may_prune(self, trial: Trial, step: int) -> bool:
        """Whether a loss may end a trial: with its last step the target's own stage is over anyway."""
        steps = int(trial.values.get(f"stages.{self.prune}.steps", self.steps))
        return self.prune != self.target.stage or step < steps


class Search:
    """Trials at work.

    Args:
        study: keeps them.
        goal: of each.
        launcher: starts their runs.
        job_of: the run of a trial.
        shown: shows them.
    """

    def __init__(
        self, study: Study, goal: Goal, launcher: Launcher, job_of: Callable[[Trial], TrialJob], shown: Shown
    ) -> None:
        self._study, self._goal, self._launcher, self._job_of, self._shown = study, goal, launcher, job_of, shown
        self._working: list[TrialJob] = []
        # Trials whose outcome is known, and whose runs have been asked to end; with what is to be said of these.
        self._ending: dict[TrialJob, str] = {}

    def run(self, trials: int, at_once: int) -> None:
        """Have so many trials, those counted that were there before.

        Args:
            trials: in all.
            at_once: side by side.

        Raises:
            Interrupted: by a signal; the runs that were at work have been ended, and their trials go on when the
                search does.
        """
        watch = Watch()
        try:
            for trial in self._study.trials:
                if trial.phase == "running":
                    self._submit(trial)
            while True:
                standings = self._launcher.poll()
                for job in list(self._working):
                    self._look(job, standings.get(job, Standing("queued")))
                # Each is chosen when it can begin, to learn from as many as there are by then.
                while len(self._working) < at_once and len(self._study.trials) < trials:
                    self._submit(self._study.begin())
                states = watch.states(standings)
                working = {job.number: states[job] for job in self._working if job in states}
                self._shown.show(self._study.trials, working)
                if not self._working:
                    return
                time.sleep(_EVERY)
        except BaseException:
            self._shown.say("Ending the runs that are at work; each leaves a checkpoint of its last step.")
            self._launcher.cancel()
            raise

    def _submit(self, trial: Trial) -> None:
        job = self._job_of(trial)
        self._working.append(job)
        self._launcher.submit(job)

    def _look(self, job: TrialJob, standing: Standing) -> None:
        over = standing.phase in ("finished", "failed")
        if job in self._ending:
            if over:
                self._working.remove(job)
                add_last_words(job.folder / LOG, f"cogvid search, {self._ending.pop(job)}")
            return
        outcome = self._outcome(job, standing)
        if outcome is None:
            return
        if over:
            self._working.remove(job)
            return
        pruned = f"which pruned it {outcome.note}"
        self._ending[job] = pruned if outcome.phase == "pruned" else f"which needs {self._goal.target.name} alone"
        self._launcher.end(job)

    def _outcome(self, job: TrialJob, standing: Standing) -> Trial | None:
        """The trial, if it is decided. What its losses say comes first, so that it does not depend on how far a run
        came before it was looked at."""
        study, goal, number = self._study, self._goal, job.number
        if goal.prune is not None:
            trial = study.trials[number]
            for step, loss in held_out_losses(job.folder, goal.prune):
                if goal.may_prune(trial, step) and study.is_pruned_at(number, step, loss):
                    return study.prune(number, goal.prune, step)
        if standing.phase == "failed":
            return study.fail(number, standing.cause)
        stage = "" if goal.whole else goal.target.stage
        if standing.phase != "finished" and not (stage and is_finished(job.folder, stage)):
            return None
        found = value_of(goal.target, job.folder)
        if found is None or found.value is None:
            return study.fail(number, f"the run has no value of {goal.target.name}, or its videos determine none")
        return study.finish(number, found.value, found.protocol)
