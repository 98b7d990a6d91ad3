-- Roles for a ClickHouse server. The tests' embedded engine parses them, and knows their privileges and tables, but has
-- no roles of its own: that they suffice was NOT TRIED on a server.
-- Not a migration: an administrator runs it once, in the database of the audit (`audit` below), after the worker's
-- first start, and gives the roles to users. Passwords, hosts and quotas are the installation's own.

-- The audit worker. It applies the migrations: CREATE, ALTER of comments, and INSERT. It can delete nothing,
-- and change no row. DROP VIEW is what CREATE OR REPLACE VIEW needs.
CREATE ROLE IF NOT EXISTS omium_writer;
GRANT SELECT, INSERT, CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER VIEW, ALTER COMMENT COLUMN ON audit.* TO omium_writer;

-- Analysts and dashboards: the views only. SQL SECURITY DEFINER would hide the table as well; where analysts of one
-- tenant share the server, give them the row policy below.
CREATE SETTINGS PROFILE IF NOT EXISTS omium_analyst SETTINGS
    readonly = 1,
    max_execution_time = 60 CHANGEABLE_IN_READONLY,  -- Grafana's data source sets it with each query
    max_memory_usage = 4000000000;
CREATE ROLE IF NOT EXISTS omium_analyst SETTINGS PROFILE 'omium_analyst';
GRANT SELECT ON audit.* TO omium_analyst;

-- Analysts of one tenant, named by their user: CREATE USER acme ... DEFAULT ROLE omium_tenant.
CREATE ROLE IF NOT EXISTS omium_tenant SETTINGS PROFILE 'omium_analyst';
GRANT SELECT ON audit.* TO omium_tenant;
CREATE ROW POLICY IF NOT EXISTS omium_own_tenant ON audit.audit_events
    USING tenant_id = currentUser() TO omium_tenant;
-- Where a table has a policy, a server may show those without one nothing (users_without_row_policies_can_read_rows).
CREATE ROW POLICY IF NOT EXISTS omium_every_tenant ON audit.audit_events
    USING 1 TO ALL EXCEPT omium_tenant;

-- A person who must remove data (a retention period that ended, a legal order). Give it for the time of the work,
-- and alert on its queries: SELECT * FROM system.query_log WHERE has(used_privileges, 'ALTER DELETE').
CREATE ROLE IF NOT EXISTS omium_break_glass;
-- ALTER DELETE also permits DROP PARTITION.
GRANT ALTER DELETE ON audit.audit_events TO omium_break_glass;
