"""What a server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Counters:
    """Counters of one server; another in the same process has its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.connected = Gauge("lewm_clients", "Clients that are connected", registry=registry)
        self.sessions = Gauge("lewm_sessions", "Sessions, those that wait for their client too", registry=registry)
        self.pages = Gauge("lewm_pages", "Pages that watch", registry=registry)
        self.answers = Histogram(
            "lewm_answer_seconds", "From a message to its answer", registry=registry, buckets=_SECONDS
        )
        self.superseded = Counter(
            "lewm_superseded", "Pictures that a newer one came for before their turn", registry=registry
        )
        self.errors = Counter("lewm_errors", "Messages that were refused", registry=registry)
        self.events = Counter("lewm_events", "What controllers did not trust", ["kind"], registry=registry)
        self.refused = Counter("lewm_refused", "Connections that were refused", ["why"], registry=registry)
        self.closed = Counter("lewm_closed", "Connections that the server ended", ["why"], registry=registry)

    def text(self) -> str:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self._registry).decode()
