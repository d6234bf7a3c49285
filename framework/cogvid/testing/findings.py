"""What suites share: components as good as new to hold to their promises, and what is found of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from cogvid.config.options import first_line
from cogvid.interfaces.component import Kind
from cogvid.plugins.manager import HOOKS, create_plugin_manager
from cogvid.testing.report import ConformanceError, Failure


def maker(
    kind: Kind, component: Any, options: Mapping[str, Any] | None = None, plugins: Sequence[str] = ()
) -> Callable[[], Any]:
    """What makes the component again and again, each time as good as new.

    Args:
        kind: of the component.
        component: itself, which is copied, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.

    Raises:
        UserError: a plugin cannot be loaded. What is returned raises it where there is no such component.
    """
    if isinstance(component, str):
        manager = create_plugin_manager(plugins)
        return lambda: manager.create(kind, component, options)
    if options is not None or plugins:
        raise ValueError("options and plugins go with the name of a component, not with a component")
    assert isinstance(component, dict(HOOKS.values())[kind])
    return lambda: deepcopy(component)


class Findings:
    """The failures of a suite, and the first exception that the component raised."""

    def __init__(self, checks: Sequence[str]) -> None:
        self._failures: dict[str, list[Failure]] = {check: [] for check in checks}
        self._raised: Exception | None = None

    def __bool__(self) -> bool:
        """Whether a check has failed so far."""
        return any(self._failures.values())

    def add(self, check: str, case: str, problem: str) -> None:
        """A check fails in a case."""
        self._failures[check].append(Failure(case, problem))

    @contextmanager
    def trying(self, check: str, case: str) -> Iterator[None]:
        """What the component raises here fails a check."""
        try:
            yield
        except Exception as error:
            self.add(check, case, f"raises {type(error).__name__}: {first_line(error)}")
            self._raised = self._raised or error

    def conclude(self, component: object) -> None:
        """Raise `ConformanceError` if a check has failed."""
        if self:
            failed = {check: found for check, found in self._failures.items() if found}
            raise ConformanceError(type(component).__name__, failed) from self._raised
