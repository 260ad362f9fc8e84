"""The ``fs/*`` methods of the exec-server protocol: files of the host's machine, without symlink surprises."""
