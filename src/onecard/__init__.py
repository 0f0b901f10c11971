"""onecard: one card, a whole team of agents. Plan, train, serve and measure small adapters on one base model."""

__version__ = "0.1.0"
