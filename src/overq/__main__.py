"""`python -m overq` and the `overq` command: from here on Ctrl-C is one line, also while the rest is imported."""

import os
import signal
import sys

AGAIN = 2.0  # seconds until Ctrl-C is raised once more, where a library that was just being imported has swallowed it


def main() -> None:
    """Run the command line; a second Ctrl-C does not wait for anything."""
    pressed: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        if pressed and number == signal.SIGINT:
            _leave()
        pressed.append(number)
        _raise_again(AGAIN)
        raise KeyboardInterrupt

    def ignored(what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):  # one that came where nothing can be raised is raised again
            sys.__unraisablehook__(what)

    sys.unraisablehook = ignored
    signal.signal(signal.SIGINT, interrupt)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, interrupt)
    try:
        from overq.cli import main as command

        command()
    except BaseException as error:
        _raise_again(0)
        if not pressed:
            raise
        # Also where an import turned it into another error. What was open is closed by now; the interpreter's own end would wait,
        # or die of the signal once more.
        _leave(told=isinstance(error, SystemExit) and error.code == 130)


def _raise_again(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _leave(told: bool = False) -> None:
    if not told:
        print("overq: interrupted", file=sys.stderr)
    os._exit(130)


if __name__ == "__main__":
    main()
