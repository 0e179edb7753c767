# All images of the demo, on one Debian base, from Debian packages only.
#
# The same file works with a registry (the base is pulled) and without one (compose/scripts/images.sh makes the base
# with mmdebstrap and gives it the same tag). The legacy builder builds every stage above its target in file order:
# what needs a public registry or a compiler therefore comes last.

ARG BASE=debian:trixie-slim
FROM ${BASE} AS base
# Where the packages come from, if not from where the base image says; the host's own apt settings are handed in.
ARG APT_MIRROR=
ARG APT_SECURITY=
ARG APT_PROXY=
ENV DEBIAN_FRONTEND=noninteractive
RUN set -eu; \
    if [ -n "$APT_MIRROR" ]; then \
        rm -f /etc/apt/sources.list.d/debian.sources; \
        printf 'deb %s main\n' "$APT_MIRROR trixie" "$APT_MIRROR trixie-updates" "$APT_SECURITY trixie-security" \
            > /etc/apt/sources.list; \
    fi; \
    if [ -n "$APT_PROXY" ]; then echo "Acquire::http::Proxy \"$APT_PROXY\";" > /etc/apt/apt.conf.d/90proxy; fi; \
    printf '%s\n' 'APT::Install-Recommends "false";' 'Acquire::Languages "none";' 'Acquire::Retries "3";' \
        > /etc/apt/apt.conf.d/90baton; \
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; \
    printf '%s\n' '#!/bin/sh -eu' 'apt-get update -q' 'apt-get install -qy "$@"' 'apt-get clean' \
        'rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /usr/share/man/*' \
        'find /usr/share/doc -type f ! -name copyright -delete' > /usr/sbin/add-packages; \
    chmod 755 /usr/sbin/policy-rc.d /usr/sbin/add-packages

# --- etcd -------------------------------------------------------------------------------------------------------------
FROM base AS etcd
# Its number is fixed, because it is handed a key (compose/images/baton/make-pki).
RUN groupadd -r -g 823 etcd && useradd -r -u 823 -g etcd -d /var/lib/etcd -s /usr/sbin/nologin etcd \
    && add-packages etcd-server etcd-client \
    && install -d -o etcd -g etcd -m 700 /var/lib/etcd
USER etcd
ENV ETCD_DATA_DIR=/var/lib/etcd
EXPOSE 2379 2380
CMD ["etcd"]

# --- Prometheus -------------------------------------------------------------------------------------------------------
FROM base AS prometheus
# Its number is fixed, because it is handed a key (compose/images/baton/make-pki).
RUN groupadd -r -g 809 prometheus \
    && useradd -r -u 809 -g prometheus -d /var/lib/prometheus -s /usr/sbin/nologin prometheus \
    && add-packages prometheus \
    && install -d -o prometheus -g prometheus -m 755 /prometheus
USER prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]

# --- Alertmanager, and where its webhook goes ---------------------------------------------------------------------------
# Debian's package has no web interface; what fires is seen in Prometheus' own and with amtool.
FROM base AS alertmanager
RUN add-packages prometheus-alertmanager && install -d -o prometheus -g prometheus -m 755 /alertmanager
USER prometheus
EXPOSE 9093
ENTRYPOINT ["prometheus-alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager", "--cluster.listen-address="]

FROM base AS webhook
COPY compose/images/webhook/receive /usr/local/bin/receive
USER nobody
EXPOSE 9095
CMD ["receive"]

# --- Apache with PHP, and the page ------------------------------------------------------------------------------------
FROM base AS apache-php
RUN add-packages apache2 libapache2-mod-php php-mysql \
    && a2dismod -q -f status autoindex negotiation deflate auth_basic authn_file authz_user access_compat reqtimeout \
    && a2enmod -q headers && a2dissite -q 000-default \
    && rm -rf /etc/apache2/conf-enabled/* /var/www/html /var/log/apache2/*
COPY compose/images/apache-php/baton.conf /etc/apache2/conf-enabled/baton.conf
COPY compose/images/apache-php/mpm_prefork.conf /etc/apache2/mods-available/mpm_prefork.conf
COPY compose/images/apache-php/php.ini /etc/php/conf.d/baton.ini
COPY compose/images/apache-php/run /usr/local/bin/apache-run
COPY compose/images/apache-php/page/ /var/www/page/
COPY compose/images/apache-php/lib/ /var/www/lib/
ENV APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data APACHE_RUN_DIR=/run/apache2 APACHE_LOCK_DIR=/run/lock/apache2 \
    APACHE_LOG_DIR=/var/log/apache2 APACHE_PID_FILE=/run/apache2/apache2.pid PHP_INI_SCAN_DIR=:/etc/php/conf.d \
    BATON_NODE=unknown
EXPOSE 80
CMD ["apache-run"]

# --- MariaDB ----------------------------------------------------------------------------------------------------------
FROM base AS mariadb
RUN add-packages mariadb-server openssl && rm -rf /var/lib/mysql /etc/mysql/debian* \
    && install -d -o mysql -g mysql -m 755 /run/mysqld
COPY compose/images/mariadb/baton.cnf /etc/mysql/mariadb.conf.d/90-baton.cnf
COPY compose/images/mariadb/run /usr/local/bin/mariadb-run
COPY compose/images/mariadb/healthcheck.sh /usr/local/bin/healthcheck.sh
EXPOSE 3306
CMD ["mariadb-run"]

# --- mail server that keeps what it is sent --------------------------------------------------------------------------------
FROM base AS mail
# Without set-uid: the whole server runs as its own user.
RUN add-packages exim4-daemon-light openssl && chmod u-s /usr/sbin/exim4 && rm -rf /var/mail/* /var/log/exim4/* \
    && install -d -o Debian-exim -g Debian-exim -m 755 /var/mail/baton \
    && install -d -m 755 /var/lib/mail-server /var/lib/mail-client
COPY compose/images/mail/exim.conf /etc/exim4/baton.conf
COPY compose/images/mail/run /usr/local/bin/mail-run
COPY compose/images/mail/mails /usr/local/bin/mails
EXPOSE 25 587
CMD ["mail-run"]

# --- a demo host: holds the network namespace, nothing else -------------------------------------------------------------
FROM base AS runtime
RUN add-packages ca-certificates e2fsprogs iproute2 xfsprogs

FROM runtime AS host
COPY compose/images/baton/host-run /usr/local/bin/host-run
CMD ["host-run"]

# --- Baton, from binaries that were built on the host -------------------------------------------------------------------
FROM runtime AS baton-prebuilt
COPY compose/images/baton/on-host compose/images/baton/make-pki /usr/local/bin/
COPY .build/bin/ /usr/local/bin/
EXPOSE 7480 694/udp 7788

# --- Baton, from source -------------------------------------------------------------------------------------------------
FROM rust:1-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends libprotobuf-dev protobuf-compiler && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY operator operator
COPY replicator replicator
COPY e2e e2e
RUN cargo build --release --locked -p baton-operator -p baton-replicator \
    && install -D -t /out target/release/baton target/release/baton-agent target/release/baton-replicator

FROM runtime AS baton
COPY compose/images/baton/on-host compose/images/baton/make-pki /usr/local/bin/
COPY --from=build /out/ /usr/local/bin/
EXPOSE 7480 694/udp 7788
