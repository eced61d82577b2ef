"""Damaged input by the thousand: nothing crashes, nothing hangs, nothing changes without a word."""
