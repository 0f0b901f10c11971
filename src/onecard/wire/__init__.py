"""OpenAI-compatible records, error bodies, the client, and a fake server for tests."""
