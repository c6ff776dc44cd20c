"""``python -m vaekit``, the same as ``vaekit``: handle interruptions and closed streams before importing anything else."""

import gc
import io
import os
import signal
import sys


def main() -> int:
    """Run the command line as the main program; return its exit code."""
    try:
        _open_streams()
        from vaekit.cli import main as run

        return run()
    except KeyboardInterrupt:  # before the command line could handle it
        sys.stderr.write("interrupted\n")
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter is about to exit
        gc.freeze()  # and need not search everything for garbage before; see `vaekit.cli.common.imports`


def _open_streams() -> None:
    """Open standard streams closed by ``>&-``, and escape characters that an encoding lacks."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # so that no file of a run gets its descriptor
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
