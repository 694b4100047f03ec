"""The only part that talks to wandb: `record` offline, `send` later, with what `plan` keeps.

`record` and `plan` need no network; `send` and `wandb_report` are used by `tasks.publish` alone.
"""
