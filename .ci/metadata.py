"""Write the metadata that installing cogvid would write, for a machine where nothing can be installed.

`python .ci/metadata.py FOLDER`; then FOLDER, framework and plugins on PYTHONPATH are as good as an installation.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
folder = Path(sys.argv[1]) / f"{project['name']}-{project['version']}.dist-info"
folder.mkdir(parents=True, exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
lines = []
for group, points in project["entry-points"].items():
    lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
(folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
