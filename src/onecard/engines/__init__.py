"""What answers: the engine protocol and its implementations."""
