"""Who executes a network that has been loaded.

The mathematics is torch's, and torch is the reference. Every other runtime is one file here and an entry in
`choice.py`, answers what the reference answers within a tolerance, and leaves a call to the reference whenever it
can't: who executes a network is never a reason for a picture not to come.
"""
