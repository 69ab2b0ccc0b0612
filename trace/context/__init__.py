"""The context of a recording: which are open, where they were called, how torch is patched."""
