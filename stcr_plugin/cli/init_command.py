"""`stcr init`: write the recipes into a folder, so that an installed wheel is enough to start."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from stcr_plugin.cli.options import Commands, Parser, command
from stcr_plugin.errors import DataError

_PACKAGE = Path(__file__).parents[1]
# In a wheel these are in stcr_plugin/starter (see pyproject.toml), in a checkout beside the package.
_FILES = ("recipes", "data_registry/README.md")


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    command(
        commands,
        "init",
        _init,
        help="write the recipes and an empty data registry into a folder",
        options=_init_options,
    )


def _init_options(parser: Parser) -> None:
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="folder (default: this one)"
    )


def _init(arguments: argparse.Namespace) -> None:
    written, kept = init(arguments.folder)
    for path in kept:
        print(f"kept: {path} differs from ours and was left as it is")
    print(f"written: {len(written)} files below {arguments.folder}")


def init(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the recipes and data_registry/README.md below `folder`, each file whole; never replace a file.

    Args:
        folder: Made where it is missing.

    Returns:
        The files written, and those kept because they differ. Identical files are in neither.

    Raises:
        DataError: If a file cannot be written, or the recipes are not installed.
    """
    from stcr_plugin.artefacts import write_bytes

    written, kept = [], []
    for source, name in _starter():
        path, data = folder / name, source.read_bytes()
        if not path.exists() and not path.is_symlink():
            write_bytes(path, data)
            written.append(path)
        elif not _holds(path, data):
            kept.append(path)
    return written, kept


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _starter() -> Iterator[tuple[Path, Path]]:
    """(file, its place in the user's folder) of everything that is written."""
    root = next((one for one in (_PACKAGE / "starter", _PACKAGE.parent) if (one / "recipes").is_dir()), None)
    if root is None:
        raise DataError(_PACKAGE, "holds no recipes", "install stcr-plugin again")
    for name in _FILES:
        for path in [root / name, *sorted((root / name).rglob("*"))]:
            if path.is_file():
                yield path, path.relative_to(root)
