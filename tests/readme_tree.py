"""The file tree of README, a line for each file from its own first line.

python -m tests.readme_tree  # writes it anew; a test compares
"""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- tree -->", "<!-- end of tree -->"
FOLDERS = ("heph_vl", "configs", "training", "eval", "benchmarks", "notebooks", "space", "weights")
OTHERS = {
    "configs": "<task>/{tiny,small,base}.yaml, each with command and result; accelerate/",
    "weights": "reference weights, each folder with card, config and results",
    "tests": "mirror the package",
}


def tree() -> str:
    """Markdown: folders with their files, in order."""
    lines = []
    for folder in FOLDERS:
        if folder in OTHERS:
            lines += ["", f"{folder}/  {OTHERS[folder]}"]
            continue
        known = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        files = [Path(name) for name in known if (ROOT / name).is_file()]
        for parent in sorted({path.parent for path in files}):
            said = [(path.name, _says(ROOT / path)) for path in files if path.parent == parent]
            said = [(name, text) for name, text in said if text]
            if said:
                lines += ["", f"{parent}/"]
                width = max(len(name) for name, _ in said) + 2
                lines += [f"  {name:<{width}}{text}" for name, text in sorted(said)]
    lines += ["", f"tests/  {OTHERS['tests']}"]
    return "```\n" + "\n".join(lines).strip() + "\n```"


def _says(path: Path) -> str:
    """First line of a module, or the title of a notebook or a page; nothing for other files."""
    if path.suffix == ".py":
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        return doc.splitlines()[0].rstrip(".") if doc else ""
    if path.suffix == ".ipynb":
        import json

        first = json.loads(path.read_text())["cells"][0]["source"]
        return "".join(first).splitlines()[0].lstrip("# ")
    if path.name in ("LOG.md", "README.md"):
        titles = [line for line in path.read_text().splitlines() if line.startswith("# ")]
        return titles[0].lstrip("# ") if titles else ""
    return ""


def with_tree(readme: str) -> str:
    """README with the tree as it is now."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{tree()}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tree(path.read_text()))
