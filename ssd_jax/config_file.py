"""Configs by name or by file, with `--config.FIELD=VALUE` flags; every mistake in them is one line."""

import importlib.machinery
import importlib.util
import linecache
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

_PACKAGE = Path(__file__).parent
# The wheel holds the repository's folder configs/ as ssd_jax/configs.
FOLDER = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
FULL = "ssd300_voc"  # the config that has every field; the others are changes to it


def config_names() -> list[str]:
    """Return the names of our configs."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def config_path(name: str) -> Path:
    """Return the file of a config: `name` is the path of a Python file, or one of `config_names`.

    Raises:
      ValueError: if there is no such config; the message lists the names.
    """
    path = Path(name)
    if path.suffix != ".py" and path.name == name and name in config_names():
        path = FOLDER / f"{name}.py"
    if not path.is_file():
        raise ValueError(f"a config must be a Python file, or one of {', '.join(config_names())}; got {name!r}")
    return path


def read_config(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Load a config.

    Args:
      name: as in `config_path`; what follows a colon, as in "mine.py:small", is passed to its `get_config`. A config
        may begin with `from configs import NAME` in any folder.
      overrides: flags "--config.FIELD=VALUE" that change it.

    Returns:
      the config, locked.

    Raises:
      ValueError: in one line, if there is no such config or field, or the config has a mistake: then the message
        shows the line.
    """
    name, colon, argument = name.partition(":")
    path = config_path(name)
    _make_importable(beside=path.parent)
    try:
        module = _execute(path)
        if not hasattr(module, "get_config"):
            raise ValueError("a config must define get_config(); got a file without it")
        config = module.get_config(argument) if colon else module.get_config()
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config() must return a ConfigDict; got {type(config).__name__}")
    except Exception as error:  # a config is a program, which may raise anything
        raise ValueError(_one_line(_mistake_in(path, error) or f"{path}: {error}")) from error
    return changed(config, overrides)


def changed(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Return the config as flags "--config.FIELD=VALUE" change it, locked.

    Raises:
      ValueError: in one line, for a field that the config lacks, or a value of another type.
    """
    values = flags.FlagValues()
    argv = ["", *overrides]
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (AttributeError, KeyError, IndexError) as error:
        raise ValueError(_wrong_field(overrides, error) or _one_line(str(error))) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise ValueError(_one_line(str(error))) from error
    if rest:
        raise ValueError(f"a field must be set as --config.FIELD=VALUE; got {' '.join(overrides)}")
    return holder.value.lock()


def describe_fields(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (field, default, comment) of fields of the full config, as its file has them."""
    found = {}
    for line in (FOLDER / f"{FULL}.py").read_text().splitlines():
        match = re.fullmatch(r"    config\.([\w.]+) = (.+?)(?:  # (.*))?", line)
        if match:
            found[match[1]] = match[1], match[2], match[3] or ""
    return [found[name] for name in names]


def _make_importable(*, beside: Path) -> None:
    """Let `from configs import NAME` find what is `beside` a config, then folders configs/ on the path, then ours."""
    package = sys.modules.get("configs")
    if package is None:
        spec = importlib.util.find_spec("configs")
        theirs = spec.submodule_search_locations if spec else None
    else:
        theirs = getattr(package, "__path__", None)
    folders = [*([beside] if beside.resolve().name == "configs" else []), *map(Path, theirs or ()), FOLDER]
    locations = list(dict.fromkeys(str(folder.resolve()) for folder in folders))
    if package is None:
        spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
        spec.submodule_search_locations = locations
        sys.modules["configs"] = importlib.util.module_from_spec(spec)
    else:
        package.__path__ = locations


def _execute(path: Path) -> ModuleType:
    """Execute a file as a module."""
    linecache.checkcache(str(path))
    module = ModuleType("_ssd_jax_config")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the module of a class
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def _mistake_in(path: Path, error: BaseException | None) -> str | None:
    """Show the line of the file that raised `error`, or one of the errors that led to it."""
    while error is not None:
        if isinstance(error, SyntaxError) and _same_file(error.filename, path):
            return f"{path}, line {error.lineno}: {(error.text or '').strip()}: {error.msg}"
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if _same_file(frame.f_code.co_filename, path)]
        if lines:
            line = linecache.getline(str(path), lines[-1]).strip()
            text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            message = re.sub(r"\s*Other fields present: .*", "", text)  # ml_collections lists every field
            return f"{path}, line {lines[-1]}: {line}: {type(error).__name__}: {message}"
        error = error.__cause__ or error.__context__
    return None


def _same_file(name: str | None, path: Path) -> bool:
    return name is not None and Path(name).resolve() == path.resolve()


def _wrong_field(overrides: Sequence[str], error: Exception) -> str | None:
    """Name the flag whose field the config lacks; ml_collections says which field, in one of several ways."""
    text = str(error)
    name = re.search(r"lookup: ([\w.]+)", text) or re.search(r"(\w+)", text)
    if name is None:
        return None
    part = r"\[" if isinstance(error, IndexError) else rf"(^|\.){re.escape(name[1])}(\.|$)"
    fields = {flag: re.match(r"--?config\.([^=]+)", flag) for flag in overrides}
    wrong = [flag for flag, field in fields.items() if field and re.search(part, field[1])]
    if not wrong:
        return None
    meant = re.search(r'Did you mean "(\w+)"', text)
    hint = f"; did you mean {meant[1]!r}?" if meant else ""
    return f"a --config. flag must name a field of the config; got {wrong[0]}{hint}"


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
