"""The format of saved models: SB3's zip, with members that are read without running code."""
