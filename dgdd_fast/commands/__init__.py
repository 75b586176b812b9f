"""The subcommands of `dgdd`, a module each, and what they share."""
