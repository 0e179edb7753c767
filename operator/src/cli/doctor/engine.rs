//! The Docker engine: that it answers, its API version, and settings that matter when it restarts.

use super::report::Finding;
use crate::cli::docker;
use bollard::Docker;

const FAMILY: &str = "engine";
/// The first API with control groups 2 (engine 20.10).
const OLDEST_API: (u32, u32) = (1, 41);

/// What was learned of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    version: String,
    api: String,
    live_restore: bool,
    storage: String,
    warnings: Vec<String>,
}

pub(super) async fn check(url: &str) -> Vec<Finding> {
    match docker::connect(url).await {
        Ok(docker) => judge(ask(&docker).await, url),
        Err(why) => judge(Err(why), url),
    }
}

async fn ask(docker: &Docker) -> Result<Facts, String> {
    let version = docker::bounded(docker.version()).await?;
    let info = docker::bounded(docker.info()).await?;
    Ok(Facts {
        version: version.version.unwrap_or_default(),
        api: version.api_version.unwrap_or_default(),
        live_restore: info.live_restore_enabled.unwrap_or(false),
        storage: info.driver.unwrap_or_default(),
        warnings: info.warnings.unwrap_or_default(),
    })
}

fn judge(facts: Result<Facts, String>, url: &str) -> Vec<Finding> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => {
            return vec![Finding::failed(
                FAMILY,
                "reachable",
                format!("the Docker engine at {url} does not answer: {why}"),
                "Start it (systemctl start docker), and mount its socket if this runs in a container: \
                 -v /var/run/docker.sock:/var/run/docker.sock.",
            )];
        }
    };
    let mut numbers = facts.api.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let api = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let said = format!("Docker {} with API {}", facts.version, facts.api);
    let mut all = vec![if api >= OLDEST_API {
        Finding::ok(FAMILY, "version", format!("{said} answers"))
    } else {
        Finding::failed(
            FAMILY,
            "version",
            format!("{said} is too old: API {}.{} is needed", OLDEST_API.0, OLDEST_API.1),
            "Install Docker Engine 20.10 or later.",
        )
    }];
    all.push(if facts.live_restore {
        Finding::ok(FAMILY, "live restore", "containers go on while the engine restarts")
    } else {
        Finding::warning(
            FAMILY,
            "live restore",
            "off: a restart of the engine stops every service of this host, and its groups move",
            "Set \"live-restore\": true in /etc/docker/daemon.json and reload the engine.",
        )
    });
    if facts.storage == "vfs" {
        all.push(Finding::warning(
            FAMILY,
            "storage driver",
            "vfs copies each image for each container: slow starts, much disk",
            "Use overlay2.",
        ));
    }
    // The engine's own words about missing limits concern no service of ours; about the API socket they do.
    for warning in facts.warnings.iter().filter(|w| w.contains("API is accessible")) {
        let mend = "Listen on the Unix socket only, or with TLS and client certificates.";
        all.push(Finding::warning(FAMILY, "API socket", warning.trim().to_owned(), mend));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn engines() {
        let good =
            Facts { version: "28.0".into(), api: "1.48".into(), live_restore: true, ..Facts::default() };
        let verdicts =
            |facts: &Facts| judge(Ok(facts.clone()), "x").iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&good), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(verdicts(&Facts { api: "1.40".into(), ..good.clone() })[0], Verdict::Failed);
        assert_eq!(verdicts(&Facts { api: String::new(), ..good.clone() })[0], Verdict::Failed);
        assert_eq!(verdicts(&Facts { live_restore: false, ..good.clone() })[1], Verdict::Warning);
        assert_eq!(verdicts(&Facts { storage: "vfs".into(), ..good.clone() })[2], Verdict::Warning);
        let open = "[DEPRECATION NOTICE]: API is accessible on http://0.0.0.0:2375 without encryption.";
        let found =
            judge(Ok(Facts { warnings: vec!["No swap limit support".into(), open.into()], ..good }), "x");
        assert!(found.len() == 3 && found[2].found.contains("2375"), "{found:?}");
        let gone = judge(Err("no such file".into()), "unix:///x.sock");
        assert!(gone[0].verdict == Verdict::Failed && gone[0].found.contains("unix:///x.sock"), "{gone:?}");
    }
}
