"""What vlora raises. Every message says where, what was found, and what to do."""


class VloraError(ValueError):
    """Anything the user can mend; the command line prints it without a traceback."""


class RecipeError(VloraError):
    """A recipe, or an option on the command line, that cannot be carried out."""


class SampleError(VloraError):
    """A dataset row that cannot be learned from; the message begins with its row number."""


class BatchError(VloraError):
    """Rows that cannot be put into one batch."""


class ModelError(VloraError):
    """A model that cannot be loaded, or that cannot be trained correctly."""


class CheckpointError(VloraError):
    """An adapter or a training state that does not belong to the model."""


class CheckError(VloraError):
    """A check of `vlora.doctor` found something other than it should be."""


class NonFiniteError(VloraError):
    """A loss or a gradient became NaN or infinite; nothing of that step was kept."""
