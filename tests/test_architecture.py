"""The layer rule: products -> pipeline -> manifests, and each heavy library in its one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {
    "manifests": {"manifests"},
    "pipeline": {"pipeline", "manifests"},
    "curation": {"curation", "pipeline", "manifests"},
    "latent_actions": {"latent_actions", "pipeline", "manifests"},
    "world_model": {"world_model", "pipeline", "manifests"},
}
HOMES = {
    "ray": ("pipeline/run_ray.py", "pipeline/preflight.py", "pipeline/training/launch.py"),
    "deltalake": ("manifests/",),
    "duckdb": ("manifests/",),
    "obstore": ("manifests/",),
    "av": ("pipeline/video.py", "pipeline/pictures.py", "pipeline/hardware.py"),
    "decord": ("pipeline/video.py",),
    "torch": ("pipeline/training/", "curation/scorers/", "latent_actions/", "world_model/"),
    "faiss": ("curation/dedup_semantic.py", "latent_actions/index.py"),
    "open_clip": ("curation/scorers/embedding.py",),
    "mujoco": ("curation/simulation/",),
    "tensorboardX": ("pipeline/training/records.py",),
    "cv2": ("curation/small.py", "latent_actions/flow.py"),
}


def source_files() -> list[Path]:
    return sorted(path for package in LAYERS for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, tree: ast.AST, *, top_level_only: bool = False) -> Iterator[str]:
    """Absolute names a file imports; relative imports resolve to the file's own package."""
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            own = path.relative_to(ROOT).parts
            yield (node.module or "") if node.level == 0 else own[0]


def broken_layers(path: Path, text: str) -> list[str]:
    package = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imports(path, ast.parse(text))}
    return sorted((roots & set(LAYERS)) - LAYERS[package])


def strangers(path: Path, text: str) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    roots = {name.split(".")[0] for name in imports(path, ast.parse(text))}
    return sorted(
        library
        for library in roots & set(HOMES)
        if not any(relative == home or relative.startswith(home) for home in HOMES[library])
    )


@pytest.mark.parametrize("path", source_files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_file_keeps_its_layer_and_its_libraries(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert broken_layers(path, text) == [], "imports a package above or beside it"
    assert strangers(path, text) == [], "imports a library that lives elsewhere"
    assert len(text.splitlines()) <= 500, "a file holds one idea in at most 500 lines"


def test_the_rule_sees_violations() -> None:
    path = ROOT / "pipeline" / "planted.py"
    assert broken_layers(path, "def f():\n    from curation import cli\n") == ["curation"]
    assert strangers(ROOT / "manifests" / "planted.py", "import torch.nn\n") == ["torch"]
    assert broken_layers(ROOT / "curation" / "x" / "planted.py", "from ..ingest import a\n") == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/**/*cli.py")), ids=lambda p: p.parent.name)
def test_cli_files_import_only_click_and_manifests(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] not in LAYERS:
        pytest.skip("not part of the product")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = path.relative_to(ROOT).parts[0]
    allowed = {"click", "manifests", own} | set(sys.stdlib_module_names)
    assert {name.split(".")[0] for name in imports(path, tree, top_level_only=True)} <= allowed


def test_help_loads_nothing_heavy() -> None:
    heavy = [*HOMES, "pyarrow", "numpy", "rich", "yaml"]
    code = (
        "import sys; sys.argv=['egodojo','--help']\n"
        "from manifests.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert e.code == 0, e.code\n"
        f"print('LOADED', sorted(set(sys.modules) & set({heavy!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert "curate" in done.stdout
