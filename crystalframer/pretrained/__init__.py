"""Models by name: the list of those that come with the package or were packed here, and how finished runs become one.

The networks themselves are in `crystalframer.nn`; what lies here are weights, and how they are found and used.
"""
