"""From an options dataclass to a command line: flags, help, errors, exit codes.

Exit codes, the same for every tool: 0 done; 1 finished, but some cases failed; 2 bad flags or
input, nothing lost; 3 training diverged; 70 a bug of ours; 75 stopped, run it again to go on;
130 interrupted.
"""

import dataclasses
import os
import re
import signal
import sys
import tempfile
import textwrap
import traceback
import typing
from pathlib import Path

# Until `run` has taken over, an interrupt while modules are imported leaves without a word.
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))

# TensorFlow greets with start-up notices that look like errors; a user who wants them sets this.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags  # noqa: E402

from brats_tfrecord.errors import InputError, Stopped, TrainingDiverged  # noqa: E402

_NUMBERS = {
    "invalid literal for int() with base 10": "expected a whole number, got",
    "could not convert string to float": "expected a number, got",
}
"""What Python says of a text that is no number -> what we say."""
_NO_NUMBER = re.compile(f"({'|'.join(map(re.escape, _NUMBERS))}):")


def run(main, options_class):
    """Parses the flags of `options_class`, calls `main(options)`, exits with what it returns.

    Args:
        main: takes an instance of options_class, returns an exit code.
        options_class: frozen dataclass; each field is a flag, its metadata holds "help" and may
            hold "choices"; a field without default is a required flag.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(main, options_class, sys.argv))


def _run(main, options_class, argv):
    tool = Path(argv[0]).name
    try:
        if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
            print(usage(sys.modules[main.__module__].__doc__, options_class), flush=True)
            return 0
        return main(parse(options_class, argv))
    except (InputError, Stopped, TrainingDiverged) as error:
        print(f"{tool}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0  # whoever reads our output has had enough of it
    except OSError as error:
        print(f"{tool}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return InputError.exit_code
    except _Terminated:
        print(f"{tool}: stopped by SIGTERM; run the same command again", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print(f"{tool}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        log = _write_trace(tool)
        print(
            f"{tool}: a bug of ours, {type(error).__name__}: {str(error)[:200]!r}; the trace is "
            f"in {log}",
            file=sys.stderr,
        )
        return 70


class _Terminated(KeyboardInterrupt):
    """SIGTERM, where no work is under way that would rather end by itself."""


def _terminate(number, frame):
    raise _Terminated


def parse(options_class, argv):
    """An instance of `options_class` from `argv`; raises `InputError` naming the flag."""
    values = flags.FlagValues()
    for field in dataclasses.fields(options_class):
        _define(field, _type(options_class, field), values)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        message = _NO_NUMBER.sub(lambda found: _NUMBERS[found[1]], " ".join(str(error).split()))
        raise InputError(f"{message.rstrip('.')}; see --help") from error
    if rest:
        raise InputError(f"{rest[0]!r}: expected only flags such as --name=value; see --help")
    given = {field.name: values[field.name].value for field in dataclasses.fields(options_class)}
    for field in dataclasses.fields(options_class):
        if given[field.name] == "" != field.default:
            raise InputError(f"--{field.name}: is empty; leave it out or give a value, see --help")
        if _required(field) and given[field.name] is None:
            raise InputError(f"--{field.name}: this flag is required; see --help")
    return options_class(**given)


def usage(doc, options_class):
    """The text of `--help`: the tool's own opening words, then every flag with its default."""
    lines = [doc.strip(), "", "Flags:"]
    for field in dataclasses.fields(options_class):
        name, help_text = field.name, field.metadata["help"]
        if "choices" in field.metadata:
            name += "=" + "|".join(field.metadata["choices"])
        elif _type(options_class, field) is bool:
            name += f" / --no{field.name}"
        default = "required" if _required(field) else f"default: {_shown(field.default)}"
        lines.append(f"  --{name}  ({default})")
        lines += textwrap.wrap(help_text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _define(field, kind, values):
    default = None if _required(field) else field.default
    help_text = field.metadata["help"]
    if "choices" in field.metadata:
        flags.DEFINE_enum(
            field.name, default, field.metadata["choices"], help_text, flag_values=values
        )
        return
    define = {
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        str: flags.DEFINE_string,
    }[kind]
    define(field.name, default, help_text, flag_values=values)


def _type(options_class, field):
    """The field's type, without the None of an optional one."""
    hint = typing.get_type_hints(options_class)[field.name]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0]


def _required(field):
    return field.default is dataclasses.MISSING


def _shown(default):
    return (
        "none"
        if default is None
        else repr(default)
        if default == ""
        else str(default).lower()
        if isinstance(default, bool)
        else str(default)
    )


def _write_trace(tool):
    log = Path(tempfile.gettempdir()) / f"{Path(tool).stem}-{os.getpid()}.log"
    log.write_text(traceback.format_exc())
    return log
