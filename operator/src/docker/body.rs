//! A [`ServiceSpec`] as the engine's create request, and the hash that tells whether a container still is
//! what it should be. Pure.

use super::spec::{
    HealthcheckSpec, LABEL_CLUSTER, LABEL_CONFIG, LABEL_DEFINITION, LABEL_GROUP, LABEL_HOST, LABEL_SERVICE,
    MountSpec, Owner, ServiceSpec,
};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, Mount, MountType, MountVolumeOptions,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;

/// The network a container is created with, resolved.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum ResolvedNetwork {
    /// The host's.
    Host,
    /// That of the container with this id. The id and not the name: a container created anew under the same
    /// name has another namespace, and everything that joined the old one must be created anew too.
    Container(String),
}

/// Hash of all that makes the container what it is. 128 bits are plenty to tell configurations apart.
pub(super) fn config_hash(spec: &ServiceSpec, network: &ResolvedNetwork, image_id: &str) -> String {
    // Ordered maps and plain structs: the text is the same on every run, and serialisation cannot fail.
    let text = serde_json::to_vec(&(spec, network, image_id)).expect("specification serialises");
    Sha256::digest(&text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The create request.
pub(super) fn create_body(
    spec: &ServiceSpec,
    owner: &Owner,
    network: &ResolvedNetwork,
    hash: &str,
) -> ContainerCreateBody {
    let own_names = *network == ResolvedNetwork::Host;
    let mut labels: HashMap<String, String> =
        spec.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    for (label, value) in [
        (LABEL_CLUSTER, owner.cluster.as_str()),
        (LABEL_HOST, &owner.node),
        (LABEL_GROUP, &spec.group),
        (LABEL_SERVICE, &spec.service),
        (LABEL_CONFIG, hash),
        (LABEL_DEFINITION, &spec.definition()),
    ] {
        labels.insert(label.to_owned(), value.to_owned());
    }
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: spec.command.clone(),
        // The engine resets the entry point on one empty string, and ignores an empty list.
        entrypoint: spec.entrypoint.clone().map(|e| if e.is_empty() { vec![String::new()] } else { e }),
        env: Some(spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        hostname: spec.hostname.clone().filter(|_| own_names),
        healthcheck: spec.healthcheck.as_ref().map(health),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_grace_period.map(ceil_seconds),
        labels: Some(labels),
        host_config: Some(host_config(spec, network, own_names)),
        ..Default::default()
    }
}

fn host_config(spec: &ServiceSpec, network: &ResolvedNetwork, own_names: bool) -> HostConfig {
    HostConfig {
        network_mode: Some(match network {
            ResolvedNetwork::Host => "host".to_owned(),
            ResolvedNetwork::Container(id) => format!("container:{id}"),
        }),
        // The engine must never start a service by itself: after a reboot another node may lead.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        privileged: Some(false),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        tmpfs: some(spec.tmpfs.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<HashMap<_, _>>()),
        cap_add: some(spec.cap_add.clone()),
        cap_drop: some(spec.cap_drop.clone()),
        security_opt: some(spec.security_opt.clone()),
        group_add: some(spec.group_add.clone()),
        readonly_rootfs: Some(spec.read_only),
        init: spec.init,
        ulimits: some(
            spec.ulimits
                .iter()
                .map(|u| ResourcesUlimits {
                    name: Some(u.name.clone()),
                    soft: Some(u.soft),
                    hard: Some(u.hard),
                })
                .collect::<Vec<_>>(),
        ),
        sysctls: some(spec.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<HashMap<_, _>>()),
        shm_size: spec.shm_size,
        memory: spec.memory,
        nano_cpus: spec.nano_cpus,
        pids_limit: spec.pids_limit,
        devices: some(spec.devices.iter().map(|d| device(d)).collect::<Vec<_>>()),
        extra_hosts: if own_names { some(spec.extra_hosts.clone()) } else { None },
        ..Default::default()
    }
}

/// `None` for an empty collection: what is not set stays out of the request.
fn some<C: IntoIterator + Clone>(collection: C) -> Option<C> {
    let empty = collection.clone().into_iter().next().is_none();
    if empty { None } else { Some(collection) }
}

fn mount(mount: &MountSpec) -> Mount {
    match mount {
        MountSpec::Volume { name, target, read_only } => Mount {
            typ: Some(MountType::VOLUME),
            source: Some(name.clone()),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            // With copying, the engine would mount the volume when the container is *created*, which on a
            // standby must fail because there is no device.
            volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
            ..Default::default()
        },
        MountSpec::Bind { source, target, read_only } => Mount {
            typ: Some(MountType::BIND),
            source: Some(source.clone()),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            ..Default::default()
        },
    }
}

fn health(check: &HealthcheckSpec) -> HealthConfig {
    HealthConfig {
        test: Some(check.test.clone()),
        interval: check.interval.map(nanoseconds),
        timeout: check.timeout.map(nanoseconds),
        retries: check.retries.map(i64::from),
        start_period: check.start_period.map(nanoseconds),
        start_interval: None,
    }
}

fn device(text: &str) -> DeviceMapping {
    let mut parts = text.splitn(3, ':').map(str::to_owned);
    let host = parts.next().unwrap_or_default();
    let container = parts.next().unwrap_or_else(|| host.clone());
    let permissions = parts.next().unwrap_or_else(|| "rwm".to_owned());
    DeviceMapping {
        path_on_host: Some(host),
        path_in_container: Some(container),
        cgroup_permissions: Some(permissions),
    }
}

fn nanoseconds(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

/// Whole seconds, rounded up: the engine knows no fractions.
pub(super) fn ceil_seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs() + u64::from(d.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ServiceSpec {
        ServiceSpec {
            container: "demo-alpha-web-mysql".into(),
            group: "web".into(),
            service: "mysql".into(),
            image: "mariadb:10.11".into(),
            hostname: Some("db".into()),
            extra_hosts: vec!["apache:127.0.0.1".into()],
            entrypoint: Some(vec![]),
            mounts: vec![MountSpec::Volume {
                name: "v".into(),
                target: "/var/cluster".into(),
                read_only: false,
            }],
            stop_grace_period: Some(Duration::from_millis(1500)),
            labels: [(LABEL_CLUSTER.to_owned(), "forged".to_owned())].into(),
            ..Default::default()
        }
    }

    fn owner() -> Owner {
        Owner { cluster: "demo".into(), node: "alpha".into() }
    }

    #[test]
    fn the_request_is_never_privileged_never_restarted_and_never_copies_into_a_volume() {
        let body = create_body(&spec(), &owner(), &ResolvedNetwork::Host, "h");
        let host = body.host_config.unwrap();
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.mounts.unwrap()[0].volume_options.as_ref().unwrap().no_copy, Some(true));
        assert_eq!(body.labels.unwrap()[LABEL_CLUSTER], "demo", "a user label cannot take over ours");
        assert_eq!(body.stop_timeout, Some(2));
        assert_eq!(body.entrypoint, Some(vec![String::new()]));
    }

    #[test]
    fn names_are_dropped_with_a_shared_namespace() {
        let shared = ResolvedNetwork::Container("0123".into());
        let body = create_body(&spec(), &owner(), &shared, "h");
        assert_eq!(body.hostname, None);
        let host = body.host_config.unwrap();
        assert_eq!(host.extra_hosts, None);
        assert_eq!(host.network_mode.as_deref(), Some("container:0123"));
        let own = create_body(&spec(), &owner(), &ResolvedNetwork::Host, "h");
        assert_eq!(own.hostname.as_deref(), Some("db"));
    }

    #[test]
    fn the_hash_changes_with_spec_namespace_and_image_and_with_nothing_else() {
        let base = config_hash(&spec(), &ResolvedNetwork::Host, "sha256:1");
        assert_eq!(base, config_hash(&spec(), &ResolvedNetwork::Host, "sha256:1"));
        let mut other = spec();
        other.env.insert("A".into(), "b".into());
        for changed in [
            config_hash(&other, &ResolvedNetwork::Host, "sha256:1"),
            config_hash(&spec(), &ResolvedNetwork::Container("1".into()), "sha256:1"),
            config_hash(&spec(), &ResolvedNetwork::Container("2".into()), "sha256:1"),
            config_hash(&spec(), &ResolvedNetwork::Host, "sha256:2"),
        ] {
            assert_ne!(base, changed);
        }
    }

    #[test]
    fn devices_are_read_as_compose_does() {
        let short = device("/dev/fuse");
        assert_eq!(short.path_in_container.as_deref(), Some("/dev/fuse"));
        let long = device("/dev/a:/dev/b:r");
        assert_eq!(
            (long.path_in_container.as_deref(), long.cgroup_permissions.as_deref()),
            (Some("/dev/b"), Some("r"))
        );
    }
}
