"""The package as a user gets it: light imports, a wheel that holds every sub-package."""

import ast
import importlib
import pkgutil
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import pd_edge
from pd_edge.bundle import shipped_models

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "openvino", "onnx", "onnxruntime", "matplotlib", "open3d", "rich", "typer", "pydantic")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_import_is_light() -> None:
    assert not modules_after("import pd_edge").intersection(HEAVY)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(pd_edge, "nothing")  # noqa: B009 - the point is the lookup


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_there_is(path: Path) -> None:
    """Most need data, minutes or a GPU, so that no test runs them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "pd_edge":
            module = importlib.import_module(node.module)
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


def output(python: Path, code: str) -> str:
    """What a statement prints in another interpreter."""
    return subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_wheel_holds_every_subpackage(tmp_path: Path) -> None:
    """Builds the wheel, installs it alone into an empty environment, imports every sub-package from there."""
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, tracked.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "dist"), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"pd_edge"}

    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    site = Path(output(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    # The dependencies come from here, as plain path entries: a checkout installed for development stays out of sight.
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    packages = ["pd_edge", *(m.name for m in pkgutil.walk_packages(pd_edge.__path__, "pd_edge.") if m.ispkg)]
    assert {"pd_edge.training", "pd_edge.engines", "pd_edge.native"} <= set(packages)
    code = (
        f"import importlib, pd_edge; [importlib.import_module(name) for name in {packages!r}]; print(pd_edge.__file__)"
    )
    assert output(python, code).startswith(str(site))
    # What is shipped beside the code came along.
    assert output(python, "import pd_edge.bundle; print(*pd_edge.bundle.shipped_models())").split() == shipped_models()
