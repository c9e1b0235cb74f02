"""The commands of ``pd-edge``, one to a module.

Modules here import nothing heavy at their top: ``pd-edge --help`` loads all of them.
"""
