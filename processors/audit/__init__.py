"""Every record of every audited topic into ClickHouse, and the embedded engine that stands in for a server."""
