"""What every worker shares: settings, Kafka client configuration, metrics, health endpoints, logging."""
