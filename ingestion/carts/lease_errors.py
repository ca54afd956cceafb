"""What a lease on a state may bring to who asks for it: told apart from where the state lies."""


class LeaseHeldError(Exception):
    """Another process holds the lease; nothing was done. The message says who, and until when."""


class LeaseLostError(Exception):
    """Another process has taken over in the middle of a poll: this one has to stop."""
