"""Serve an export: a websocket that robots' clients speak, and a page to watch it and a simulated task; no torch."""
