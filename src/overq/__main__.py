"""`python -m overq` and the `overq` command: from here on Ctrl-C is one line, also while the rest is imported."""

import os
import signal
import sys


def main() -> None:
    """Run the command line; a second Ctrl-C does not wait for anything."""
    pressed: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        if pressed:
            os._exit(130)
        pressed.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        from overq.cli import main as command

        command()
    except BaseException as error:
        if not pressed:
            raise
        if not isinstance(error, SystemExit):  # the import may have turned it into any error
            print("overq: interrupted", file=sys.stderr)
        os._exit(130)  # what was open is closed by now; the interpreter's own end would wait, or die of the signal once more


if __name__ == "__main__":
    main()
