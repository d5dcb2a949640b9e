"""What every command does around its work: arguments, errors in one line, exit codes."""

import argparse
import contextlib
import os
import re
import sys
import time
from pathlib import Path

from kcifar import gpus
from kcifar.errors import InputError, ProcessLost, nearest
from kcifar.interrupts import EXIT_CODE, end_with_stdin, exit_at_once, interrupts
from kcifar.output import complain, drop_output, unbroken
from kcifar.recipe import VIEWS

# Lets large tensors lie in pages of 2 MB. On a CPU, XLA takes its memory from the system anew in each step: by small
# pages, a step of JAX takes 1.2 times as long or more (benchmarks/). glibc reads this only when a process starts.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


_FIRST_SAYS_IT = 5  # seconds


def use_huge_pages():
    """Starts this program anew, in the same process, with HUGE_PAGES: once, on Linux, where Keras runs on JAX.

    A variable GLIBC_TUNABLES that is set already is respected.
    """
    wanted = sys.platform == "linux" and os.environ.get("KERAS_BACKEND") == "jax"
    if wanted and not HUGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | HUGE_PAGES)


def start(main):
    """Runs a command's `main` as a program does; its exit code. What was interrupted ends at once."""
    use_huge_pages()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # What a terminal cannot show, as Greek in ASCII, is shown as its code, and is no error.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    interrupts.owns_process = True
    code = main()
    if code == EXIT_CODE:
        exit_at_once()
    return code


class Parser(argparse.ArgumentParser):
    """Reads the arguments of a command. What is wrong with them is told as all else that a user can mend: in one line.

    Args:
        command: its name.
        about: what it does, for its help.
        examples: what stands at the end of its help.
    """

    def __init__(self, command, about, examples):
        super().__init__(
            prog=f"python -m kcifar.{command}",
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message):
        told = "; " in message  # by the type of an argument, see below; else these are argparse's own words
        raise InputError(message if told else f"{message}; {self.prog} --help tells what is expected")

    def print_help(self, file=None):
        with unbroken():
            super().print_help(file)
            (file or sys.stdout).flush()


def one_of(names):
    """The type of an argument that has these choices, which argparse refuses in other words in each Python."""

    def chosen(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"'{text}' is unknown; {nearest(text, names)}")
        return text

    return chosen


def number_of(what):
    """The type of an argument that is a number, at least 1, of what is named."""

    def counted(text):
        if not (text.isdecimal() and int(text)):
            raise argparse.ArgumentTypeError(f"'{text}' is no number of {what}; expected a whole number, at least 1")
        return int(text)

    return counted


def add_import_option(parser):
    """Adds `--import MODULE` to a command that opens saved models."""
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import MODULE (a name, or FILE.py) first: code that you trust, where a saved model has layers of its own",
    )


def run_command(parser, work, arguments=None, shared=False):
    """Parses the arguments and calls `work(options)`.

    Args:
        shared: whether several processes may do it together, as torchrun starts them: the first one prints.

    Returns:
        The exit code: 0; 2 for what the user can mend, with one line on stderr; 130 for Ctrl-C, SIGTERM and SIGHUP.
    """
    try:
        with interrupts.heeded(), _only_first_prints():
            end_with_stdin()
            options = parser.parse_intermixed_args(arguments)
            _expect_values(options)
            _check_backend()
            if not shared:
                _expect_alone()
            if is_one_of_several():
                _expect_device_of_its_own(options)
            if getattr(options, "device", None):
                _use_device(options.device)
            _import(getattr(options, "modules", ()))
            work(options)
        return 0
    except InputError as error:
        if isinstance(error, ProcessLost) and interrupts.number is not None:
            return _interrupted(parser)  # and so was the other
        _wait_for_first(error)
        return _complain(parser, str(error).removesuffix(f"; {error.advice}"), error.advice)
    except BrokenPipeError:
        drop_output()
        return 141
    except OSError as error:
        # A full disk, a folder that became read-only: what was written before is whole, see kcifar.runs.files.
        where = f" '{error.filename}'" if error.filename else ""
        advice = "" if isinstance(error, FileNotFoundError) else interrupts.advice
        return _complain(parser, f"cannot read or write{where}: {error.strerror or error}", advice)
    except KeyboardInterrupt:
        return _interrupted(parser)
    except Exception as error:
        if interrupts.number is not None:
            return _interrupted(parser)  # that is what a library made of it
        if isinstance(error, MemoryError):
            return _complain(parser, "out of memory: the data or the model are too large for this machine")
        if isinstance(error, RecursionError):
            return _complain(parser, "something that was given is nested too deep to be read")
        raise


def add_device_option(parser):
    """Adds `--device`, which `run_command` follows. Commands that are started by this one take the same device."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=os.environ.get("KCIFAR_DEVICE") or None,
        help="compute on cpu, cuda:0, cuda:1, …, or on JAX on all GPUs together (default: the variable "
        "KCIFAR_DEVICE, else a GPU where there is one)",
    )


def add_tta_option(parser):
    """Adds `--tta`: "none" by default."""
    parser.add_argument(
        "--tta",
        metavar="VIEWS",
        choices=VIEWS,
        type=one_of(VIEWS),
        default="none",
        help="test-time augmentation, the mean of the logits: flip (2 views), flip+shift (6, shifted by a pixel too)",
    )


def _use_device(name):
    known = re.fullmatch(r"all|cpu|mps|(?:cuda|gpu|tpu|xpu)(?::\d+)?", name)
    if known and os.environ.get("KERAS_BACKEND") == "jax":
        if name == "cpu":
            os.environ["JAX_PLATFORMS"] = "cpu"  # else JAX takes memory of a GPU all the same
    elif known and name != "all":
        os.environ["KERAS_TORCH_DEVICE"] = name.replace("gpu", "cuda")  # read when Keras is imported

    from kcifar import backend

    backend.use_device(name)
    os.environ["KCIFAR_DEVICE"] = name


def know_ensembles(runs):
    """Has Keras know the layer of an ensemble that votes hard, where one of what was found may be such a file."""
    if any(run.recipe is None for run in runs):
        from kcifar.voting import Voting  # noqa: F401


def _expect_values(options):
    # A path that is empty would be the working directory, or as if it were not given.
    for name, value in vars(options).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise InputError(f"what is given as {name} is empty, as where a variable is not set; expected a value")


def _check_backend():
    # Before Keras is imported, which greets an unknown name with a traceback.
    backend = os.environ.get("KERAS_BACKEND")  # not set where a Keras that was imported first has decided
    if backend not in (None, "torch", "jax"):
        raise InputError(
            f"the variable KERAS_BACKEND is '{backend}'; expected torch or jax: unset it or set one of them"
        )


def is_one_of_several():
    """Whether torchrun, or another by its variables, started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "").strip() not in ("", "1")


def _expect_device_of_its_own(options):
    # Before Keras is imported, and with it torch, which would compute on the first GPU in other threads than this.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else it tells at length of each lost connection
    device = getattr(options, "device", None) or ""
    if ":" in device:
        raise InputError(
            f"the device is '{device}', but there are several processes, each of which takes a GPU of its own: leave "
            "it out, or give --device cpu"
        )
    if device != "cpu" and os.environ.get("KERAS_BACKEND") != "jax":
        gpus.take_own()


def _rank():
    rank = os.environ.get("RANK", "").strip()
    return int(rank) if is_one_of_several() and rank.isdecimal() else 0


def _expect_alone():
    # Each process would do the whole work, and write into the same folder.
    if is_one_of_several():
        raise InputError(
            f"the variable WORLD_SIZE is '{os.environ['WORLD_SIZE']}', as where torchrun starts several processes; "
            "expected 1, since kcifar train alone is divided among them: start the command once, or unset WORLD_SIZE"
        )


@contextlib.contextmanager
def _only_first_prints():
    if _rank() == 0:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _import(modules):
    if modules:
        from kcifar.experiment.own_parts import import_module
        from kcifar.recipe import put_on_import_path
    for module in modules:
        if module.endswith(".py"):
            put_on_import_path(Path(module).parent)
        import_module(Path(module).stem if module.endswith(".py") else module)


def _wait_for_first(error):
    # It most likely says the same, and torchrun then ends the others; but it may be the one that is lost.
    if _rank() and not isinstance(error, ProcessLost):
        time.sleep(_FIRST_SAYS_IT)


def _complain(parser, text, advice=""):
    text = f"process {_rank()}: {text}" if _rank() else text
    complain(f"{parser.prog.removesuffix('.py').rpartition('.')[2]}: {text}", advice)
    return 2


def _interrupted(parser):
    if _rank() == 0:
        interrupts.say()
    elif lost := _first_lost():
        return _complain(parser, str(lost).removesuffix(f"; {lost.advice}"), lost.advice)
    return EXIT_CODE


def _first_lost():
    # Where process 0 was killed torchrun interrupts the others, and no other says what has happened.
    if "kcifar.backend" not in sys.modules:
        return None
    from kcifar import backend

    joined = backend.joined_processes()
    return joined.watch.lost("process 0 is silent") if joined and joined.watch.first_is_gone() else None
