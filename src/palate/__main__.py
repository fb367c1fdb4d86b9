"""`palate` and `python -m palate`: the command in a process of its own, which Ctrl-C ends from the first import on."""

import signal
import sys
from types import FrameType, TracebackType


def main() -> int:
    """Run the command line; returns the exit code.

    Imports lose a `KeyboardInterrupt`: Python ignores one that is raised in a callback, and C code turns it into
    another error or prints it. So an ignored one is raised again, and after Ctrl-C every error counts as its effect.
    """
    heard = ends = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        if not ends:
            raise KeyboardInterrupt

    def raise_again(ignored: "sys.UnraisableHookArgs") -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.01)  # an error raised in this hook would be ignored, too
        else:
            sys.__unraisablehook__(ignored)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        console = sys.modules.get("palate.console")
        if heard:
            return
        if console is None or not issubclass(kind, Exception):
            sys.__excepthook__(kind, error, trace)
        else:
            console.crash(error)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell's script ignores it
        signal.signal(signal.SIGINT, hear)
        signal.signal(signal.SIGALRM, hear)
        sys.unraisablehook = raise_again
    sys.excepthook = report
    code, reported = 0, False
    try:
        from palate.cli import main as command

        code = command()
        reported = code == 130
    except BaseException as error:
        if not heard or isinstance(error, SystemExit):
            raise
    ends = True
    if not heard:
        return code
    exec("")  # an interrupted `exec` of a string, as in imports, would make Python end as killed by the signal
    if not reported:
        print("interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
