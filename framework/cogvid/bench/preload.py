"""For the server of `memory.py` alone, which imports this: its forks then need not import the plugins again."""

from cogvid.bench import memory
from cogvid.plugins.manager import create_plugin_manager

__all__ = ["memory"]

create_plugin_manager()
