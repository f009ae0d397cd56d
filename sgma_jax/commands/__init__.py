"""The subcommands of `sgma`, one file each: its arguments as a dataclass, and a function that does it."""
