"""The error that a user can mend."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is for reading, not for debugging: what was wrong, where (file, key, image id), what to do.
    Programs under tools/ print it as one line without a traceback.
    """
