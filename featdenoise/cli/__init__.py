"""The command line: one small file a command, over the same dataclasses that Python users build."""
