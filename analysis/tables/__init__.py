"""Tables: a script each."""
