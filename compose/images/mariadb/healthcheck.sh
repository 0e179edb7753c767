#!/bin/sh
# healthcheck.sh [--connect]: succeeds if the database answers a query over TCP, within two seconds.
exec env MYSQL_PWD="${MARIADB_PASSWORD:-}" mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --connect-timeout=1 \
    --user="${MARIADB_USER:-web}" --batch --skip-column-names --execute 'SELECT 1' "${MARIADB_DATABASE:-cluster}" > /dev/null
