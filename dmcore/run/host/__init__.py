"""The machine and its users: its `facts`, whether it is fit (`doctor`), how it is now (`health`), who may do what (`access`)."""
