"""Which files of a folder of code travel with a run, and which are ignored."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pathspec

from trainer.errors import ConfigError

# What nobody wants to travel: histories, caches, environments, data, and secrets by their usual
# names.
EXCLUDED = (
    *(".git", ".hg", ".svn", "__pycache__", "*.py[cod]", "*.egg-info", "node_modules"),
    *(".venv", "venv", ".tox", ".nox", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"),
    *("*-ubyte", "*-ubyte.gz"),
    *(".env", ".env.*", "*.pem", "*.key", "id_rsa", "id_ed25519", ".netrc"),
    *(".aws", ".azure", ".kube", ".ssh", "kubeconfig"),
)

_OF_A_RUN = ("config.json", "attempts.jsonl")  # a folder with both holds what a run wrote


def travelling(root: Path, part: str | None) -> Iterator[str]:
    """Yield the names of the files and links that travel, relative to the folder ``root``.

    Left out are ``EXCLUDED``, folders of runs, and what .gitignore, .git/info/exclude and
    .dockerignore name. A file that is named itself, as ``part``, travels in any case.

    Raises:
        ConfigError: a folder cannot be read, or a link leads out of ``root``.
    """
    root = root.absolute()
    if part is not None and not (root / part).is_dir():
        yield _checked_link(root, part)
        return
    top = root / (part or "")
    ignored, pending = _Ignored(top), [top]
    while pending:
        folder = pending.pop()
        if folder != top:
            ignored.enter(folder)
        try:
            items = list(os.scandir(folder))
        except OSError as error:
            raise ConfigError(
                f"code: {folder}: {error.strerror}; make it readable or ignore it"
            ) from None
        for item in items:
            path = folder / item.name
            is_folder = item.is_dir(follow_symlinks=False)
            if ignored(path, is_folder=is_folder):
                continue
            if is_folder:
                if not all((path / each).is_file() for each in _OF_A_RUN):
                    pending.append(path)
            elif item.is_file(follow_symlinks=False) or item.is_symlink():
                yield _checked_link(root, path.relative_to(root).as_posix())


class _Ignored:
    """Which files of a folder do not travel."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._excluded = pathspec.GitIgnoreSpec.from_lines(EXCLUDED)
        docker = _docker_lines(root / ".dockerignore")
        self._docker = pathspec.GitIgnoreSpec.from_lines(docker)
        # Of a folder left out, Docker takes what a later line wants; git does not.
        self._exceptions = any(line.startswith("!") for line in docker)
        above = [root, *root.parents]
        top = next((folder for folder in above if (folder / ".git").exists()), root)
        self._git: list[tuple[Path, pathspec.GitIgnoreSpec]] = []
        self._add(top, top / ".git" / "info" / "exclude")
        for folder in reversed(above[: above.index(top) + 1]):
            self._add(folder, folder / ".gitignore")

    def enter(self, folder: Path) -> None:
        """Take a folder's own .gitignore in."""
        self._add(folder, folder / ".gitignore")

    def _add(self, folder: Path, file: Path) -> None:
        if lines := _lines(file):
            self._git.append((folder, pathspec.GitIgnoreSpec.from_lines(lines)))

    def __call__(self, path: Path, *, is_folder: bool) -> bool:
        """Return whether a path of the folder stays at home."""
        ending = "/" if is_folder else ""
        name = path.relative_to(self._root).as_posix()
        if self._excluded.match_file(name + ending):
            return True
        if not (is_folder and self._exceptions) and self._docker.match_file(name + ending):
            return True
        ignored = False
        for folder, rules in self._git:  # those of inner folders come later, and win
            if path.is_relative_to(folder):
                within = path.relative_to(folder).as_posix() + ending
                found = rules.check_file(within).include
                ignored = ignored if found is None else found
        return ignored


def _checked_link(root: Path, name: str) -> str:
    path = root / name
    if path.is_symlink():
        target = path.readlink()
        inside = Path(os.path.normpath(path.parent / target)).is_relative_to(root)
        if target.is_absolute() or not inside or not path.resolve().is_relative_to(root.resolve()):
            raise ConfigError(
                f"code: {path}: is a link that leads out of {root}; put what it leads to in its "
                "place, or ignore it"
            )
    return name


def _docker_lines(file: Path) -> list[str]:
    """Return .dockerignore's lines as .gitignore has them: each pattern starts at the root.

    https://docs.docker.com/build/concepts/context/#syntax
    """
    found = []
    for line in map(str.strip, _lines(file)):
        if line and not line.startswith("#"):
            mark, pattern = ("!", line[1:]) if line.startswith("!") else ("", line)
            found.append(f"{mark}/{PurePosixPath(pattern.strip().lstrip('/')).as_posix()}")
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
