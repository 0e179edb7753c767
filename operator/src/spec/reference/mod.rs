//! Every field of the specification in one table: type, default, unit, meaning, example. The configuration reference
//! (`docs/configuration.md`) and the JSON Schema for editors (`docs/cluster.schema.json`) are made from it, and tests hold
//! it against the reader, so that none of the three can say something that the others do not.

mod markdown;
mod schema;
mod table;
#[cfg(test)]
mod tests;

pub use markdown::markdown;
pub use schema::schema;

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Any single value.
    Text,
    /// With a unit.
    Duration,
    /// In bytes, with a unit.
    Size,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Whole,
    /// An IP address.
    Address,
    /// An address with a prefix length, or a mapping with the interface.
    Cidr,
    /// An absolute path.
    Path,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Something with a grammar of its own, as a regular expression.
    Pattern(&'static str),
    /// One value or a list of them.
    OneOrMore(&'static Kind),
    /// A list.
    List(&'static Kind),
    /// Words, or one line that is split as a shell would.
    Command,
    /// `NAME: value`, or a list of `NAME=value`.
    Assignments,
    /// A mapping from names.
    Map(&'static Kind),
    /// Either of two forms.
    Either(&'static Kind, &'static Kind),
    /// A mapping with these fields.
    Section(&'static Section),
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// What counts if it is left out; empty if it must be there.
    pub default: &'static str,
    pub meaning: &'static str,
    pub example: &'static str,
}

/// The fields of one mapping.
#[derive(Debug)]
pub(crate) struct Section {
    /// Heading in the reference.
    pub title: &'static str,
    /// Where it stands, e.g. `groups.<group>`; empty for the document itself.
    pub path: &'static str,
    pub intro: &'static str,
    pub fields: &'static [Field],
    /// Exactly one of these must be there.
    pub one_of: &'static [&'static str],
}

/// All sections, in the order of the reference.
pub(crate) fn sections() -> &'static [&'static Section] {
    table::SECTIONS
}
