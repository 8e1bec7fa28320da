"""The embedded corpus: Python source that every machine with this package already has."""

import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from hptransfer.data.corpus import Document, Source, not_text

PACKAGES = ("torch", "numpy", "mup", "yaml", "pydantic", "matplotlib", "jinja2", "tqdm", "wandb")
"""Dependencies of this package, which its installation therefore brings along."""

LEFT_OUT = frozenset(
    {
        *("test", "tests", "testing", "idlelib", "lib2to3", "distutils", "turtledemo", "__pycache__"),
        *("site-packages", "dist-packages"),
        *("_vendor", "vendor", "vendored"),  # copies of other packages
        *("encodings", "generated", "serialized_patterns"),  # written by programs: one table, many times over
    }
)
"""Folders that hold tests, copies or generated code."""


def python_source(size_mb: float) -> Source:
    """At most `size_mb` megabytes (10^6 bytes) of it."""
    return Source(f"python_source-{size_mb:g}mb", "data.size_mb", f"{size_mb:g}", python_documents, size_mb * 1e6)


def python_documents() -> Iterator[Document]:
    """The .py files of the standard library and of PACKAGES, found without importing any."""
    for root in _roots():
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if name not in LEFT_OUT]
            for name in names:
                path = Path(folder, name)
                if path.suffix == ".py" and path.is_file():
                    document = Document(path, 0, path.stat().st_size)
                    if not not_text(document.read()):
                        yield document


def _roots() -> Iterator[Path]:
    yield Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        yield from map(Path, spec.submodule_search_locations or () if spec else ())
