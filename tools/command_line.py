"""Turns an options dataclass into a command line: flags, help, errors, exit codes.

Exit codes, the same for every tool:
  0    done
  1    finished, but some cases failed
  2    bad flags or input; nothing is lost
  3    training diverged
  70   a bug of this program; the trace is in a log file
  75   stopped; run the same command again to continue
  130  interrupted
"""

import dataclasses
import gc
import os
import re
import signal
import sys
import tempfile
import textwrap
import traceback
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# Until `run` is called, Ctrl-C while modules are imported exits without a trace.
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

# TensorFlow prints notices at its start that look like errors; users who want them set this.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags  # noqa: E402

from brats_tfrecord import stopping  # noqa: E402
from brats_tfrecord.errors import InputError, Stopped, TrainingDiverged  # noqa: E402

_NOT_A_NUMBER = {
    "invalid literal for int() with base 10": "expected a whole number, got",
    "could not convert string to float": "expected a number, got",
}
"""Message of Python about a text that is not a number -> our words for it."""
_NOT_A_NUMBER_PATTERN = re.compile(f"({'|'.join(map(re.escape, _NOT_A_NUMBER))}):")


def run(
    main: Callable[[Any], int], options_class: type, make_options: Callable[..., Any] | None = None
) -> NoReturn:
    """Parses the flags, calls `main` with the options, and exits with the code it returns.

    Args:
        main: function that takes an instance of `options_class` and returns an exit code; the
            docstring of its module is the beginning of `--help`.
        options_class: frozen dataclass whose fields are declared with `options.option`; each
            field is a flag, unless it is declared otherwise, and a field without default is a
            required flag.
        make_options: function that makes the options from the flags that were given, as keywords;
            None for `options_class`.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, stopping.raise_terminated)
    code = _run(main, options_class, sys.argv, make_options)
    # TensorFlow's input pipelines wait for their threads when they are destroyed. These threads run
    # Python, which they no longer can once the interpreter ends.
    gc.collect()
    sys.exit(code)


def _run(
    main: Callable[[Any], int],
    options_class: type,
    argv: list[str],
    make_options: Callable[..., Any] | None = None,
) -> int:
    tool = Path(argv[0]).name
    try:
        if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
            print(usage(sys.modules[main.__module__].__doc__ or "", options_class), flush=True)
            return 0
        return main(parse(options_class, argv, make_options))
    except (InputError, Stopped, TrainingDiverged) as error:
        print(f"{tool}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0  # the reader of our output, such as `head`, has closed it
    except OSError as error:
        print(f"{tool}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return InputError.exit_code
    except stopping.Terminated:
        print(f"{tool}: stopped by SIGTERM; run the same command again", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        log = _write_trace(tool)
        print(
            f"{tool}: a bug of this program, {type(error).__name__}: {str(error)[:200]!r}; the "
            f"trace is in {log}",
            file=sys.stderr,
        )
        return 70


def parse(
    options_class: type, argv: list[str], make_options: Callable[..., Any] | None = None
) -> Any:
    """Parses a command line.

    Args:
        options_class, make_options: as in `run`.
        argv: name of the tool, then its arguments.

    Returns:
        An instance of `options_class`.

    Raises:
        InputError: names the flag that is unknown, missing or malformed.
    """
    values = flags.FlagValues()
    for field in _flags(options_class):
        _define(field, _type(options_class, field), values)
    try:
        arguments = values(argv)[1:]
    except flags.Error as error:
        message = _NOT_A_NUMBER_PATTERN.sub(
            lambda match: _NOT_A_NUMBER[match[1]], " ".join(str(error).split())
        )
        raise InputError(f"{message.rstrip('.')}; see --help") from error
    if arguments:
        raise InputError(f"{arguments[0]!r}: expected only flags such as --name=value; see --help")
    given = {}
    for field in _flags(options_class):
        flag = values[field.name]
        if flag.value == "" != field.default:
            raise InputError(f"--{field.name}: is empty; leave it out or give a value, see --help")
        if _required(field) and flag.value is None:
            raise InputError(f"--{field.name}: this flag is required; see --help")
        if flag.present:
            given[field.name] = flag.value
    return (make_options or options_class)(**given)


def usage(introduction: str, options_class: type) -> str:
    """Returns the text of `--help`: the introduction, then every flag with its default."""
    lines = [introduction.strip(), "", "Flags:"]
    for field in _flags(options_class):
        name = field.name
        if "choices" in field.metadata:
            name += "=" + "|".join(field.metadata["choices"])
        elif _type(options_class, field) is bool:
            name += f" / --no{name}"
        default = "required" if _required(field) else f"default: {_shown(field.default)}"
        lines.append(f"  --{name}  ({default})")
        lines += textwrap.wrap(
            field.metadata["help"], 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _define(field: dataclasses.Field, kind: type, values: flags.FlagValues) -> None:
    default: Any = None if _required(field) else field.default
    help_text = field.metadata["help"]
    if "choices" in field.metadata:
        flags.DEFINE_enum(
            field.name, default, field.metadata["choices"], help_text, flag_values=values
        )
        return
    define: Any = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        str: flags.DEFINE_string,
    }[kind]
    define(field.name, default, help_text, flag_values=values)


def _type(options_class: type, field: dataclasses.Field) -> type:
    """The type of a field; of `X | None` it is X."""
    hint = typing.get_type_hints(options_class)[field.name]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0]


def _flags(options_class: type) -> list[dataclasses.Field]:
    """The fields that are flags."""
    fields = dataclasses.fields(options_class)
    return [field for field in fields if field.metadata.get("is_flag", True)]


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING


def _shown(default: object) -> str:
    """A default as `--help` shows it."""
    if default is None:
        return "none"
    if default == "":
        return "''"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _write_trace(tool: str) -> Path:
    log = Path(tempfile.gettempdir()) / f"{Path(tool).stem}-{os.getpid()}.log"
    log.write_text(traceback.format_exc())
    return log
