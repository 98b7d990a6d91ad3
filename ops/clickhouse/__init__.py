"""ClickHouse's schema as numbered migrations: `NNNN_name.sql`, applied in order by processors.audit.migrate.

An applied file never changes; a change is a new file. Each statement can run twice: DDL has no
transactions, so a file that broke off in the middle runs again from its start.
"""
