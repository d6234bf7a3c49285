"""The one exception for what a user did and can mend."""


class UserError(ValueError):
    """A mistake in the input: the message is one paragraph that names the file, key or clip and what to do.

    The command line prints the message without a traceback (`--debug` shows it) and exits with code 1.
    """
