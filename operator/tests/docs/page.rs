//! What of a Markdown page can be checked: links, headings as anchors, code.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::collections::BTreeSet;

/// A piece of code of a page.
pub struct Code {
    /// Its text.
    pub text: String,
    /// A block of its own that a shell would take, rather than a few words in a sentence.
    pub shell: bool,
    /// A few words in a sentence.
    pub inline: bool,
}

/// What was found in a page.
#[derive(Default)]
pub struct Page {
    /// Targets of links and images.
    pub links: Vec<String>,
    /// Anchors of its headings, as GitHub makes them.
    pub anchors: BTreeSet<String>,
    /// Its code.
    pub code: Vec<Code>,
}

impl Page {
    /// Reads a page.
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut block: Option<Code> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    page.add_anchor(anchor);
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let shell = match &kind {
                        CodeBlockKind::Fenced(language) => {
                            matches!(&**language, "sh" | "bash" | "shell" | "console")
                        }
                        CodeBlockKind::Indented => false,
                    };
                    block = Some(Code { text: String::new(), shell, inline: false });
                }
                Event::End(TagEnd::CodeBlock) => page.code.extend(block.take()),
                Event::Text(text) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    }
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                    page.code.push(Code { text: text.to_string(), shell: false, inline: true });
                }
                _ => {}
            }
        }
        page
    }

    fn add_anchor(&mut self, anchor: String) {
        let again = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|a| !self.anchors.contains(a));
        self.anchors.extend(free);
    }
}

/// GitHub's anchor of a heading: lower case, spaces to hyphens, punctuation gone.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
