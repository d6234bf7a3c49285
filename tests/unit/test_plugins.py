"""Plugins load through entry points and by name, and every way they can be wrong is named."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest

import cogvid
from cogvid.errors import UserError
from cogvid.interfaces.component import ComponentClass
from cogvid.plugins.manager import HOOKS, PluginManager, create_component, create_plugin_manager, plugin_sources

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass, field
import cogvid

class Slow(cogvid.FrameRateScheduler):
    @dataclass
    class Config:
        rate: float
        name: str = "slow"
        steps: list[int] = field(default_factory=lambda: [1, 2])

    def __init__(self, config):
        super().__init__(config)
        if config.rate <= 0:
            raise cogvid.UserError("rate must be above 0")

    def training_rates(self, duration, frames):
        return [self.config.rate]

@cogvid.hookimpl
def register_frame_rate_schedulers():
    return {"slow": Slow}
"""


def write(folder: Path, code: str = PLUGIN, name: str = "slow.py") -> str:
    (folder / name).write_text(dedent(code))
    return f"./{name}"


def registering(value: str, before: str = "") -> str:
    hook = f"import cogvid\n@cogvid.hookimpl\ndef register_frame_rate_schedulers():\n    return {value}\n"
    return dedent(before) + "\n" + hook


def scheduler(body: str) -> str:
    """A plugin with one scheduler `x`."""
    head = "import cogvid\nfrom dataclasses import dataclass\nclass X(cogvid.FrameRateScheduler):\n"
    return registering("{'x': X}", head + indent(dedent(body), "    "))


RATES = "def training_rates(self, duration, frames): return []\n"


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    distribution: str,
    modules: dict[str, str],
    editable: bool = False,
) -> None:
    """Lay a distribution out as pip does, each module an entry point of the same name."""
    info = folder / f"{distribution}-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[cogvid]\n" + "".join(f"{name} = {name}\n" for name in modules))
    (info / "RECORD").write_text("".join(f"{name}.py,,\n" for name in modules))
    if editable:
        (info / "direct_url.json").write_text('{"url": "file:///somewhere", "dir_info": {"editable": true}}')
    for name, code in modules.items():
        write(folder, code, f"{name}.py")
    monkeypatch.syspath_prepend(folder)


def error_of(folder: Path, code: str) -> str:
    """The message with which a plugin file is refused."""
    with pytest.raises(UserError) as caught:
        create_plugin_manager([write(folder, code)], folder)
    return str(caught.value)


def broken_causes(manager: PluginManager) -> dict[str, str]:
    return {plugin.name: plugin.cause for plugin in manager.broken}


def test_built_in_components_come_in_through_entry_points() -> None:
    info = create_plugin_manager().get("frame_rate", "lowest_fit")
    assert (info.plugin, info.origin, info.version) == ("lowest_fit", "cogvid 0.1.0", "0.1.0")


def test_a_file_named_by_the_experiment_is_loaded_relative_to_it(tmp_path: Path) -> None:
    info = create_plugin_manager([write(tmp_path)], tmp_path).get("frame_rate", "slow")
    assert (info.plugin, info.version, info.origin) == ("slow.py", "", str(tmp_path / "slow.py"))


def test_a_file_is_relative_to_the_current_folder_without_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert create_component("frame_rate", "slow", {"rate": 2}, [write(tmp_path)]).training_rates(1, 5) == [2.0]


def test_a_module_can_be_named_by_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, name="named_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    info = create_plugin_manager(["named_module"]).get("frame_rate", "slow")
    assert (info.plugin, info.file) == ("named_module", tmp_path / "named_module.py")


def test_a_plugin_file_is_not_on_the_import_path(tmp_path: Path) -> None:
    write(tmp_path, "VALUE = 1\n", "neighbour.py")
    assert "No module named 'neighbour'" in error_of(tmp_path, PLUGIN + "import neighbour\n")


def test_an_edited_file_is_loaded_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    def load(code: str) -> ComponentClass:
        return create_plugin_manager([write(tmp_path, code)], tmp_path).get("frame_rate", "slow").cls

    assert load(PLUGIN) is load(PLUGIN)
    assert load(PLUGIN.replace("[1, 2]", "[3, 4]")).Config(rate=1.0).steps == [3, 4]


def test_managers_do_not_share_plugins(tmp_path: Path) -> None:
    create_plugin_manager([write(tmp_path)], tmp_path)
    with pytest.raises(UserError, match="no frame_rate component 'slow'"):
        create_plugin_manager().get("frame_rate", "slow")


def test_options_become_an_instance_of_the_config_dataclass(tmp_path: Path) -> None:
    made = create_plugin_manager([write(tmp_path)], tmp_path).create("frame_rate", "slow", {"rate": 3})
    assert type(made.config) is type(made).Config
    assert (made.config.rate, made.config.name, made.config.steps) == (3.0, "slow", [1, 2])
    assert type(made.config.steps) is list


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rate": 1, "stps": [1]},
            r"^frame_rate\.options\.stps: .*'slow' has no such option\. Did you mean 'steps'\?",
        ),
        ({"rate": "fast"}, r"^frame_rate\.options\.rate: wrong value .*'slow'.*'fast'.*Float"),
        ({"rate": 1, "steps": [1, "x"]}, r"^frame_rate\.options\.steps\[1\]: wrong value.*'x'"),
        ({"rate": 1, "steps": 3}, r"^frame_rate\.options\.steps: wrong value"),
        ({"rate": 1, "steps": {"a": 3}}, r"^frame_rate\.options: wrong value"),
        ({}, r"^frame_rate\.options\.rate: .*'slow' needs a value"),
        ({"rate": 0}, r"^frame_rate\.options: rate must be above 0"),
        (["rate"], r"^frame_rate\.options: expected a mapping"),
    ],
)
def test_a_wrong_option_is_refused_by_its_full_key(tmp_path: Path, options: object, message: str) -> None:
    manager = create_plugin_manager([write(tmp_path)], tmp_path)
    with pytest.raises(UserError, match=message):
        manager.create("frame_rate", "slow", options, key="frame_rate")  # type: ignore[arg-type]


def test_a_wrong_option_names_the_file_that_said_it(tmp_path: Path) -> None:
    manager = create_plugin_manager([write(tmp_path)], tmp_path)
    sources = {"frame_rate.options.steps": "experiments/a.yaml:7"}
    with pytest.raises(UserError, match=r"^experiments/a\.yaml:7: frame_rate\.options\.steps\[0\]: "):
        manager.create("frame_rate", "slow", {"rate": 1, "steps": ["x"]}, "frame_rate", sources)


def test_an_unknown_component_is_answered_with_the_nearest_and_all_names() -> None:
    with pytest.raises(UserError, match=r"^attention\.name: .*'local3'\. Did you mean 'local3d'\? Known: .*naive"):
        create_plugin_manager().create("attention", "local3", key="attention")


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"kind of component 'atention'\. Did you mean 'attention'"):
        create_component("atention", "naive")  # type: ignore[arg-type]


def test_the_sources_of_a_file_follow_its_content(tmp_path: Path) -> None:
    def sources(code: str) -> dict[str, str]:
        manager = create_plugin_manager([write(tmp_path, code)], tmp_path)
        return plugin_sources(manager.get("frame_rate", "slow"))

    assert sources(PLUGIN) == sources(PLUGIN) != sources(PLUGIN + "# edited\n")


@pytest.mark.parametrize("editable", [False, True])
def test_for_an_installed_plugin_its_version_stands_unless_it_is_editable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editable: bool
) -> None:
    module = f"digest_{'editable' if editable else 'fixed'}"
    install(tmp_path, monkeypatch, "lab", {module: PLUGIN}, editable)
    sources = plugin_sources(create_plugin_manager().get("frame_rate", "slow"))
    assert (f"{module}.py" in sources) == editable


def test_the_sources_of_a_built_in_plugin_always_count() -> None:
    sources = plugin_sources(create_plugin_manager().get("data", "shapes"))
    assert {"cogvid_plugins/shapes/source.py", "cogvid_plugins/shapes/world.py", "cogvid/data/video.py"} <= set(sources)


HELPED = """
import json, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import slow_helper
sys.path.pop(0)
TABLE = json.loads((Path(__file__).parent / "tables" / "rates.json").read_text())
"""


@pytest.mark.parametrize("edited", ["slow_helper.py", "tables/rates.json"])
def test_an_edited_file_beside_a_plugin_makes_it_another_and_is_loaded_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    monkeypatch.delitem(sys.modules, "slow_helper", raising=False)
    (tmp_path / "tables").mkdir()
    contents = {"slow_helper.py": "RATE = 1", "tables/rates.json": "[1]"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    code = PLUGIN.replace("import cogvid\n", "import cogvid\n" + HELPED)
    code = code.replace("[self.config.rate]", "[slow_helper.RATE, *TABLE]")

    def load() -> tuple[dict[str, str], list[float]]:
        manager = create_plugin_manager([write(tmp_path, code)], tmp_path)
        made = manager.create("frame_rate", "slow", {"rate": 1})
        return plugin_sources(manager.get("frame_rate", "slow")), made.training_rates(1, 5)

    before, again = load(), load()
    assert before == again
    (tmp_path / edited).write_text(contents[edited].replace("1", "2"))
    sources, rates = load()
    assert {name for name in sources if sources[name] != before[0].get(name)} == {edited}
    assert sorted(rates) == [1, 2]


def test_an_edited_second_module_of_an_editable_package_makes_it_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "twofold"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "second.py").write_text("RATE = 1")
    code = PLUGIN.replace("import cogvid\n", "import cogvid\nfrom . import second\n")
    (package / "first.py").write_text(code.replace("[self.config.rate]", "[second.RATE]"))
    install(tmp_path, monkeypatch, "lab", {}, editable=True)
    (tmp_path / "lab-1.2.3.dist-info" / "entry_points.txt").write_text("[cogvid]\nslow = twofold.first\n")

    def load() -> tuple[str, list[float]]:
        manager = create_plugin_manager()
        sources = plugin_sources(manager.get("frame_rate", "slow"))
        return sources["twofold/second.py"], manager.create("frame_rate", "slow", {"rate": 9}).training_rates(1, 5)

    before = load()
    (package / "second.py").write_text("RATE = 2")
    after = load()
    assert before[0] != after[0]
    assert (before[1], after[1]) == ([1], [2])


def test_an_installed_plugin_says_its_distribution_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_slow": PLUGIN})
    info = create_plugin_manager().get("frame_rate", "slow")
    assert (info.plugin, info.version, info.origin) == ("lab_slow", "1.2.3", "lab 1.2.3")


def test_a_broken_installed_plugin_is_recorded_and_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_broken": "\n1 / 0\n", "lab_works": PLUGIN})
    manager = create_plugin_manager()
    assert "lab_broken.py:2: ZeroDivisionError: division by zero" in broken_causes(manager)["lab_broken"]
    assert manager.get("frame_rate", "slow").plugin == "lab_works"


@pytest.mark.parametrize(
    ("name", "code", "cause"),
    [
        ("lab_exits", "import sys\nsys.exit(3)\n", "lab_exits.py:2: SystemExit: 3"),
        ("lab_stops", "raise KeyboardInterrupt\n", "lab_stops.py:1: KeyboardInterrupt"),
        ("lab_closes", "raise GeneratorExit\n", "lab_closes.py:1: GeneratorExit"),
        ("lab_prints", f"{PLUGIN}\nprint('hello')\n", "prints 'hello\\n'"),
        ("lab_hook_prints", registering("print('hello') or {}"), "register_frame_rate_schedulers prints 'hello\\n'"),
        ("lab_hook_exits", registering("exit(1)", "from sys import exit"), "register_frame_rate_schedulers failed: "),
    ],
)
def test_an_installed_plugin_neither_ends_a_command_nor_answers_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: str,
    cause: str,
) -> None:
    install(tmp_path, monkeypatch, "lab", {name: code})
    for _ in range(2):  # whoever asks again gets the same answer
        manager = create_plugin_manager()
        assert cause in broken_causes(manager)[name]
        assert not [info for info in manager.components() if info.plugin == name]
    assert capsys.readouterr().out == ""


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, in tests that a shell runs in the background too, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_during_an_import_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    install(tmp_path, monkeypatch, "lab", {"lab_ctrl_c": "import signal\nsignal.raise_signal(signal.SIGINT)\n"})
    with pytest.raises(KeyboardInterrupt):
        create_plugin_manager()
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_named_plugin_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_plugin_manager([write(tmp_path, f"{PLUGIN}\nprint('hello')\n")], tmp_path).get("frame_rate", "slow")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_named_plugin_that_exits_is_refused(tmp_path: Path) -> None:
    assert "slow.py:2: SystemExit: 3" in error_of(tmp_path, "import sys\nsys.exit(3)\n")


def test_a_component_that_is_not_found_points_to_broken_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_gone": "import not_installed_anywhere"})
    with pytest.raises(UserError, match=r"broken: .*lab_gone.*lab_gone\.py:1: ModuleNotFoundError: No module named"):
        create_plugin_manager().get("frame_rate", "lab_gone")


def test_a_broken_installed_plugin_is_an_error_once_the_experiment_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_named": "1 / 0"})
    with pytest.raises(UserError, match=r"Plugin lab_named \(lab 1\.2\.3\) cannot be imported.*ZeroDivisionError"):
        create_plugin_manager(["lab_named"])


def test_an_installed_plugin_may_also_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_both": PLUGIN})
    assert create_plugin_manager(["lab_both"]).get("frame_rate", "slow").plugin == "lab_both"


def test_two_named_plugins_with_one_component_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'slow' is registered by more than one plugin: slow\.py .* and b\.py"):
        create_plugin_manager([write(tmp_path), write(tmp_path, name="b.py")], tmp_path)


def test_a_named_plugin_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    taken = PLUGIN.replace('"slow": Slow', '"uniform": Slow')
    assert "'uniform' is registered by more than one plugin: uniform (cogvid" in error_of(tmp_path, taken)


def test_a_name_that_two_installed_plugins_claim_belongs_to_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "lab", {"lab_one": PLUGIN, "lab_two": PLUGIN})
    manager = create_plugin_manager()
    assert "more than one plugin: lab_one" in broken_causes(manager)["lab_two"]
    assert "slow" not in [info.name for info in manager.components()]
    with pytest.raises(UserError, match=r"more than one plugin: lab_one .* and lab_two"):
        manager.get("frame_rate", "slow")


def test_a_plugin_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Plugin slow\.py .* is named twice"):
        create_plugin_manager([write(tmp_path), write(tmp_path)], tmp_path)


def test_a_misspelt_hook_is_answered_with_the_nearest(tmp_path: Path) -> None:
    message = error_of(tmp_path, PLUGIN.replace("rate_schedulers", "rate_sheduler"))
    assert "Plugin slow.py" in message
    assert "unknown hook 'register_frame_rate_sheduler'. Did you mean 'register_frame_rate_schedulers'?" in message


def test_a_plugin_without_a_hook_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, "VALUE = 1")
    assert "Plugin slow.py" in message
    assert "has no hook" in message
    assert all(hook in message for hook in HOOKS)


def test_a_hook_without_its_decorator_is_pointed_at(tmp_path: Path) -> None:
    message = error_of(tmp_path, PLUGIN.replace("@cogvid.hookimpl\n", ""))
    assert "put @cogvid.hookimpl above register_frame_rate_schedulers" in message


def test_a_hook_with_arguments_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, PLUGIN.replace("schedulers():", "schedulers(manager):"))
    assert "Plugin slow.py" in message
    assert "register_frame_rate_schedulers" in message


def test_a_failing_import_names_plugin_line_and_cause(tmp_path: Path) -> None:
    message = error_of(tmp_path, "import json\n\njson.loads('{')\n")
    assert message.startswith("Plugin slow.py")
    assert f"{tmp_path}/slow.py:3: JSONDecodeError: Expecting property name" in message


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    assert f"{tmp_path}/slow.py:2: SyntaxError" in error_of(tmp_path, "x = 1\ny = = 2\n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone\.py: No such file"):
        create_plugin_manager(["./gone.py"], tmp_path)


def test_a_module_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="there is no module no_such_lab"):
        create_plugin_manager(["no_such_lab.attention"])


def test_a_hook_that_fails_names_hook_line_and_cause(tmp_path: Path) -> None:
    message = error_of(tmp_path, registering("1 / 0"))
    assert "register_frame_rate_schedulers failed: " in message
    assert "slow.py:5: ZeroDivisionError" in message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (registering("[1]"), "must return a mapping from name to class, not list"),
        (registering("{1: int}"), "must return a mapping from name to class; it has 1"),
        (registering("{'x': 1}"), "must return a mapping from name to class; it has 'x': 1"),
        (registering("{'x': int}"), "registers int, which is no subclass of cogvid's FrameRateScheduler"),
        (scheduler("pass"), "registers X, which does not define training_rates"),
        (scheduler(RATES + "class Config:\n    rate: float = 1.0\n"), "put @dataclass above the Config"),
        (
            scheduler(RATES + "class Config(cogvid.FrameRateScheduler.Config):\n    rate: float = 1.0\n"),
            "put @dataclass above the Config",
        ),
        (scheduler(RATES + "Config = 3\n"), "whose Config is not a dataclass"),
        (
            scheduler(RATES + "@dataclass\nclass Config:\n    rate: 'Undefined' = 1\n"),
            "whose Config cannot be checked",
        ),
        (
            scheduler(RATES + "@dataclass\nclass Config:\n    rate: complex = 1j\n"),
            "whose Config cannot be checked",
        ),
    ],
)
def test_a_hook_that_registers_something_else_is_refused(tmp_path: Path, code: str, message: str) -> None:
    found = error_of(tmp_path, code)
    assert "Plugin slow.py" in found
    assert message in found


def test_a_subclass_may_inherit_the_empty_config(tmp_path: Path) -> None:
    made = create_plugin_manager([write(tmp_path, scheduler(RATES))], tmp_path).create("frame_rate", "x")
    assert isinstance(made, cogvid.FrameRateScheduler)
