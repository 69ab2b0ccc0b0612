"""The context of a recording: the open ones, the place of a call, the patches of torch."""
