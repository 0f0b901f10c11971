"""One file per verb: tells each story across rooms, owns terminal output, decides nothing."""
