"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what is wrong, where, and what would be right.

    The command line prints the sentence without a traceback and exits with 2.
    """


def nearest(name: str, known: list[str]) -> str:
    """`", did you mean 'x'?"` when a known name is close to `name`, else an empty string."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""
