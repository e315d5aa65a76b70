"""What a site's own Prometheus remembers of a past job, as the windows that an agent would have sent."""
