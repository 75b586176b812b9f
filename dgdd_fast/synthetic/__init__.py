"""The synthetic images: how they are initialised, optimised, saved and shown."""
