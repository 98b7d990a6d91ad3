-- Roles for a ClickHouse server. NOT TESTED HERE: the embedded engine, on which the tests run, knows no roles.
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

-- A person who must remove data (a retention period that ended, a legal order). Give it for the time of the work,
-- and alert on its queries: SELECT * FROM system.query_log WHERE has(used_privileges, 'ALTER DELETE').
CREATE ROLE IF NOT EXISTS omium_break_glass;
GRANT ALTER DELETE, ALTER DROP PARTITION ON audit.audit_events TO omium_break_glass;
