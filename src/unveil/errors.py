"""What can go wrong, by kind. Every message says what was expected, what came, and the remedy, in one line."""


class InputError(ValueError):
    """The data cannot be used: a file that is not sound, a NaN, an empty sequence."""


class ParameterError(ValueError):
    """A setting is out of its range."""


class ModelFileError(ValueError):
    """A saved model cannot be read, or an estimator cannot be saved."""


class ConvergenceWarning(UserWarning):
    """Learning stopped before it converged, or had to repair a degenerate component."""


class IdentifiabilityWarning(UserWarning):
    """The data does not determine the parameters."""
