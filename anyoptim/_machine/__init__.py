"""What the machine lends: threads, and a folder for what was compiled."""
