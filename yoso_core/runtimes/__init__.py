"""Who executes a network that has been loaded.

The mathematics is torch's, and torch is the reference. Every other runtime is one file here, answers what the reference
answers within `OpenVINO.tolerance`, and leaves a call to the reference whenever it can't: what it executes is never a
reason for a picture not to come.
"""
