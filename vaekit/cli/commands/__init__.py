"""The commands, one file each.

A file has a function of its own name, which Typer reads: its parameters are the command's, its docstring is the help. The
command of ``fit_prior`` is called ``fit-prior``. ``PANEL`` is its panel in ``vaekit --help``; default: the last one.
`vaekit.cli.discovery` finds the files.

If the options depend on the arguments, the file also has ``command(arguments)``, which returns the function to call, or a group
of commands, and the arguments in normal form. A file may also hold a group of commands, ``app``.
"""
