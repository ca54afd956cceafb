"""What may become of a call to Cloud Storage; apart, because Google's libraries start slowly."""


class BucketUnreachableError(Exception):
    """Cloud Storage did not answer in time: whether it did what was asked is not known."""


class BucketRefusedError(Exception):
    """Cloud Storage will not do it: somebody has to correct something first."""


class ReplacedError(Exception):
    """Another generation lies under the name than the one that was to be replaced."""
