"""What a user did and can mend, and what asks a command to end."""

import signal


class UserError(ValueError):
    """A mistake in the input: the message is one paragraph that names the file, key or clip and what to do.

    The command line prints the message without a traceback (`--debug` shows it) and exits with code 1.
    """


class SaidElsewhere(UserError):
    """What ends this process is said by another one of its job.

    Args:
        code: the exit code.
    """

    def __init__(self, code: int = 1) -> None:
        super().__init__("Another process of this job says what has happened.")
        self.code = code


class Interrupted(BaseException):
    """A signal asks the command to end; like KeyboardInterrupt no error, which nobody should catch by accident.

    Args:
        signum: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"Interrupted by {signal.Signals(signum).name}.")
        self.signum = signum
