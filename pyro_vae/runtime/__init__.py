"""The process around a computation: checks of arguments, files, precision, random generators, locks."""
