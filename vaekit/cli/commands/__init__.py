"""The commands, a file each.

A file has a function of its own name, which Typer reads: its parameters are the command's, its docstring is the help. ``PANEL``
says in which part of ``vaekit --help`` it stands; default: the last. `vaekit.cli.discovery` finds the files.

Where the options depend on what else is given, the file also has ``command(arguments)``, which returns the function to call, or a
group of commands, and the arguments in normal form. Where the command is a group whatever is given, ``app`` is that group.
"""
