"""The commands of the program `crystalframer`, a module each: `add_arguments(parser)`, and `run(options)`."""
