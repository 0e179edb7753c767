//! `baton watch` where there is no terminal, or with `--plain`: the status page again and again, as text.

use crate::cli::client::ApiClient;
use crate::cli::exit::{CliError, Exit};
use crate::cli::paint::{Paint, Tone};
use crate::cli::{print, status_page};
use crate::status::ClusterStatus;
use std::time::Duration;

pub(super) async fn run(
    client: &ApiClient,
    interval: Duration,
    count: Option<u64>,
    paint: Paint,
) -> Result<Exit, CliError> {
    let mut looks = 0;
    let mut last = Exit::Ok;
    while count.is_none_or(|count| looks < count) {
        looks += 1;
        let page = match client.get::<ClusterStatus>("/v1/status").await {
            Ok(status) => {
                last = Exit::Ok;
                status_page::render(&status, paint)
            }
            Err(error) => {
                last = error.exit;
                paint.tone(Tone::Bad, &error.to_string()) + "\n"
            }
        };
        print(&(page + "\n"))?;
        if count.is_none_or(|count| looks < count) {
            tokio::time::sleep(interval).await;
        }
    }
    Ok(last)
}
