"""Does every run come back: killed at any moment, two in one folder, on a disk that fails, with a misspelt key?

The command is ``make endurance``; its table stands in ``docs/endurance.md``.
"""
