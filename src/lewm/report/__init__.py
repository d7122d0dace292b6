"""What people look at: pages and figures of a run and of a store."""
