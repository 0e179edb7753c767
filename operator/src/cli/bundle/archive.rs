//! The archive of a support bundle: redacted texts, and a manifest of what is in it and what was left out.

use super::redact::Redactor;
use crate::cli::paint::bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Largest text; of a longer one the end is kept, which is where it happened.
const TEXT_MAX: usize = 4 << 20;

/// Texts on their way into the archive.
#[derive(Debug, Default)]
pub(super) struct Texts {
    kept: Vec<(String, String)>,
    left_out: Vec<(String, String)>,
}

impl Texts {
    /// Adds a text, or why there is none.
    pub fn add(&mut self, name: impl Into<String>, text: Result<String, String>) {
        match text {
            Ok(text) => self.kept.push((name.into(), text)),
            Err(why) => self.left_out.push((name.into(), why)),
        }
    }

    /// How many have something in them.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Redacts everything, writes the manifest, and packs all into `path`, which must not exist. Returns the manifest.
    pub fn pack(self, path: &Path, top: &str, head: &str, redactor: &Redactor) -> io::Result<String> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let mut manifest = format!("{head}\nWhat is in it:\n");
        let mut contents = Vec::new();
        for (name, text) in self.kept {
            let cut = text.len() > TEXT_MAX;
            let (clean, removed) = redactor.text(tail(&text, TEXT_MAX));
            let (clean_name, _) = redactor.text(&name);
            let note = if cut { ", only its end" } else { "" };
            manifest.push_str(&format!(
                "  {clean_name}  {}{note}, {removed} secrets removed\n",
                bytes(clean.len() as u64)
            ));
            contents.push((clean_name, clean));
        }
        manifest.push_str("\nWhat was left out:\n");
        for (name, why) in &self.left_out {
            manifest.push_str(&format!("  {name}  {why}\n"));
        }
        if self.left_out.is_empty() {
            manifest.push_str("  nothing that was looked for\n");
        }
        manifest.push_str(
            "\nNever collected: the cluster secret, certificates' keys, tokens, data of volumes, environments of containers.\n\
             Secrets are removed by what is known and by what looks like one. Look before you send it all the same:\n\
             tar -xzOf FILE | less\n",
        );
        let manifest = redactor.text(&manifest).0;
        contents.insert(0, ("MANIFEST.txt".into(), manifest.clone()));
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        for (name, text) in contents {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            archive.append_data(&mut header, format!("{top}/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.sync_all()?;
        Ok(manifest)
    }
}

/// The end of a text, from the beginning of a line.
fn tail(text: &str, most: usize) -> &str {
    let Some(from) = text.len().checked_sub(most) else { return text };
    match text.as_bytes()[from..].iter().position(|b| *b == b'\n') {
        // A newline is never inside a character.
        Some(newline) => &text[from + newline + 1..],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text_is_kept() {
        assert_eq!(tail("one\ntwo\nthree\n", 20), "one\ntwo\nthree\n");
        assert_eq!(tail("one\ntwo\nthree\n", 8), "three\n");
        assert_eq!(tail("\u{e9}\u{e9}\u{e9}\nx", 4), "x");
        assert_eq!(tail("aaaa", 2), "");
    }
}
