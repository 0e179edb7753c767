//! The Docker engine of this host.

mod spec;

pub use spec::{
    BadNetworkMode, HealthcheckSpec, LABEL_CLUSTER, LABEL_CONFIG, LABEL_GROUP, LABEL_HOST, LABEL_SERVICE,
    MountSpec, NetworkMode, Owner, ServiceSpec, Ulimit,
};
