//! Pages of the documentation whose figures a bench writes: only what is between two markers is replaced.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Puts the text between the markers `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a page.
///
/// # Errors
/// The page cannot be read or written, or has not each of the markers once.
pub fn write(page: &Path, name: &str, text: &str) -> Result<()> {
    let (first, last) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let old = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let marks = old.find(&first).zip(old.find(&last)).filter(|(b, e)| b < e);
    let (begin, end) = marks.with_context(|| format!("{} has no {first} … {last}", page.display()))?;
    ensure!(old[begin + first.len()..].matches(&first).count() == 0, "{} has {first} twice", page.display());
    let new = format!("{}{first}\n\n{}\n\n{}", &old[..begin], text.trim_end(), &old[end..]);
    fs::write(page, new).with_context(|| format!("write {}", page.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_what_is_around_the_markers() {
        let path = std::env::temp_dir().join(format!("baton-page-{}", std::process::id()));
        let (begin, end) = ("<!-- bench:begin -->", "<!-- bench:end -->");
        fs::write(&path, format!("before\n\n{begin}\nold\n{end}\n\nafter\n")).unwrap();
        for _ in 0..2 {
            write(&path, "bench", "new\n").unwrap();
            let found = fs::read_to_string(&path).unwrap();
            assert_eq!(found, format!("before\n\n{begin}\n\nnew\n\n{end}\n\nafter\n"));
        }
        fs::write(&path, "no markers").unwrap();
        assert!(write(&path, "bench", "new").is_err());
        fs::remove_file(&path).unwrap();
    }
}
