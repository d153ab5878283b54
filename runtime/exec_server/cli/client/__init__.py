"""``exec-server``: commands and files of another machine, from a shell."""
