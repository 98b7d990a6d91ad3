"""What operators need: the runtime of every worker, the local broker, dashboards, benches, chaos."""
