"""What every command does around its work: arguments, errors in one line, exit codes."""

import os
import sys

from kcifar.errors import InputError
from kcifar.output import drop_output

# Lets large tensors lie in pages of 2 MB. On a CPU, XLA takes its memory from the system anew in each step: by small
# pages, a step of JAX takes 1.2 times as long or more (benchmarks/). glibc reads this only when a process starts.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def use_huge_pages():
    """Starts this program anew, in the same process, with HUGE_PAGES: once, on Linux, where Keras runs on JAX.

    A variable GLIBC_TUNABLES that is set already is respected.
    """
    wanted = sys.platform == "linux" and os.environ.get("KERAS_BACKEND") == "jax"
    if wanted and not HUGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | HUGE_PAGES)


def run_command(parser, work, arguments=None):
    """Parses the arguments and calls `work(options)`.

    Returns:
        The exit code: 0; 2 for what the user can mend, with one line on stderr; 130 for Ctrl-C.
    """
    options = parser.parse_intermixed_args(arguments)
    try:
        _check_backend()
        _check_processes()
        work(options)
        return 0
    except InputError as error:
        return _complain(parser, error)
    except BrokenPipeError:
        drop_output()
        return 141
    except OSError as error:
        # A full disk, a folder that became read-only: what was written before is whole, see kcifar.runs.files.
        where = f" '{error.filename}'" if error.filename else ""
        return _complain(parser, f"cannot read or write{where}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130


def _check_backend():
    # Before Keras is imported, which greets an unknown name with a traceback.
    backend = os.environ.get("KERAS_BACKEND")  # not set where a Keras that was imported first has decided
    if backend not in (None, "torch", "jax"):
        raise InputError(
            f"the variable KERAS_BACKEND is '{backend}'; expected torch or jax: unset it or set one of them"
        )


def _check_processes():
    # torchrun and the like set it: each process would train a model of its own, in the same folder.
    processes = os.environ.get("WORLD_SIZE", "")
    if processes.strip() not in ("", "1"):
        raise InputError(
            f"the variable WORLD_SIZE is '{processes}', as where torchrun starts several processes; expected 1, since "
            "kcifar divides no work among processes yet: start the command once, or unset WORLD_SIZE"
        )


def _complain(parser, error):
    print(f"{parser.prog.rpartition('.')[2]}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
