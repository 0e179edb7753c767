//! From the specification to what the adapters take: Docker volumes and containers, replicator volumes, timers.
//! Pure functions.

use super::config::Config;
use crate::docker::{HealthcheckSpec, MountSpec, Owner, ServiceSpec, Ulimit, VolumeSpec};
use crate::spec::{self, HealthTest, MountSource, Spec};
use baton_replicator::api::{Backing, PeerConfig, VolumeConfig};
use baton_replicator::types::{FrontEndKind, GroupName, VolumeName};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The file of a volume without a block device of its own.
#[must_use]
pub fn image(config: &Config, name: &VolumeName) -> std::path::PathBuf {
    config.state_dir.join("volumes").join(format!("{name}.img"))
}

/// The replicator's configuration of a volume on this node.
#[must_use]
pub fn volume_config(
    spec: &Spec,
    config: &Config,
    group: &GroupName,
    name: &VolumeName,
) -> Option<VolumeConfig> {
    let volume = spec.groups.get(group)?.volumes.get(name)?;
    let dir = config.state_dir.join("volumes");
    let backing = match volume.backing.on(&config.node) {
        Some(device) => Backing::Device(device.to_path_buf()),
        None => Backing::File(image(config, name)),
    };
    let peers = spec
        .nodes
        .iter()
        .filter(|(node, _)| **node != config.node)
        .filter_map(|(node, n)| {
            let mut links = n.replication.iter().map(|ip| SocketAddr::new(*ip, config.replication_port));
            let address = links.next()?;
            Some(PeerConfig { node: node.clone(), address, alternatives: links.collect() })
        })
        .collect();
    Some(VolumeConfig {
        volume: name.clone(),
        group: group.clone(),
        size_bytes: volume.size_bytes,
        backing,
        metadata: dir.join(format!("{name}.meta")),
        peers,
        protocol: volume.protocol,
        protocols: volume.protocols.clone(),
        after_split_brain: volume.after_split_brain,
        front_end: volume.front_end,
        transport: volume.transport,
        peer_timeout_ms: u64::try_from(volume.peer_timeout.as_millis()).unwrap_or(u64::MAX),
        disk_timeout_ms: u64::try_from(volume.disk_timeout.as_millis()).unwrap_or(u64::MAX),
        resync_rate: volume.resync.rate,
        resync_min_rate: volume.resync.min,
        target_latency_us: volume
            .resync
            .target_latency
            .map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX).max(1)),
    })
}

/// The Docker volume that mounts a replicated volume.
#[must_use]
pub fn docker_volume(
    spec: &Spec,
    config: &Config,
    owner: &Owner,
    group: &GroupName,
    name: &VolumeName,
) -> Option<VolumeSpec> {
    let volume = spec.groups.get(group)?.volumes.get(name)?;
    if volume.front_end == FrontEndKind::Nbd {
        return None;
    }
    Some(VolumeSpec {
        name: owner.volume_name(name.as_str()),
        filesystem: volume.filesystem.clone(),
        device: config.host_device_dir.join(name.as_str()).display().to_string(),
        options: volume.mount_options.clone(),
    })
}

/// A service's container on this node.
#[must_use]
pub fn service(
    config: &Config,
    owner: &Owner,
    group: &GroupName,
    name: &str,
    service: &spec::Service,
) -> ServiceSpec {
    let mut env = service.environment.clone();
    env.entry("BATON_NODE".into()).or_insert_with(|| config.node.to_string());
    env.entry("BATON_GROUP".into()).or_insert_with(|| group.to_string());
    let mounts = service
        .volumes
        .iter()
        .map(|m| {
            let target = m.target.display().to_string();
            match &m.source {
                MountSource::Volume { volume } => MountSpec::Volume {
                    name: owner.volume_name(volume.as_str()),
                    target,
                    read_only: m.read_only,
                },
                MountSource::Host(path) => {
                    MountSpec::Bind { source: path.display().to_string(), target, read_only: m.read_only }
                }
            }
        })
        .collect();
    let tmpfs = service
        .tmpfs
        .iter()
        .map(|t| t.split_once(':').map_or((t.clone(), String::new()), |(p, o)| (p.to_owned(), o.to_owned())))
        .collect::<BTreeMap<_, _>>();
    ServiceSpec {
        container: owner.container_name(group.as_str(), name),
        group: group.to_string(),
        service: name.to_owned(),
        image: service.image.clone(),
        command: service.command.clone(),
        entrypoint: service.entrypoint.clone(),
        env,
        mounts,
        tmpfs,
        healthcheck: service.healthcheck.as_ref().and_then(healthcheck),
        user: service.user.clone(),
        working_dir: service.working_dir.as_ref().map(|p| p.display().to_string()),
        hostname: service.hostname.clone(),
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        security_opt: service.security_opt.clone(),
        read_only: service.read_only,
        init: service.init,
        stop_grace_period: Some(service.stop_grace_period),
        stop_signal: service.stop_signal.clone(),
        ulimits: service
            .ulimits
            .iter()
            .map(|(name, u)| Ulimit { name: name.clone(), soft: u.soft, hard: u.hard })
            .collect(),
        shm_size: service.shm_size.and_then(|s| i64::try_from(s).ok()),
        devices: service.devices.clone(),
        labels: service.labels.clone(),
        ..ServiceSpec::default()
    }
}

/// The test's words as Docker takes them; none where neither the test nor the timing differs from the image's.
fn healthcheck(check: &spec::Healthcheck) -> Option<HealthcheckSpec> {
    let words = |first: &str, rest: &[String]| {
        let mut all = vec![first.to_owned()];
        all.extend_from_slice(rest);
        all
    };
    let test = match &check.test {
        Some(HealthTest::Disabled) => words("NONE", &[]),
        Some(HealthTest::Command(command)) => words("CMD", command),
        Some(HealthTest::Shell(line)) => words("CMD-SHELL", std::slice::from_ref(line)),
        // An empty list inherits the image's test.
        None => Vec::new(),
    };
    Some(HealthcheckSpec {
        test,
        interval: Some(check.interval),
        timeout: Some(check.timeout),
        retries: Some(check.retries),
        start_period: Some(check.start_period),
    })
}
