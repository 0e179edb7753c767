//! The conversation before the first request: the client chooses options, the server says what there is.
//!
//! ```text
//!  greeting ──► client's flags ──► option ──► … ──► GO or EXPORT_NAME ──► requests
//!                                    └─ ABORT, nonsense, too many ──► closed
//! ```
//!
//! Pure: [`Negotiation`] takes each option with its data and says what to send and how to go on.

use super::proto::{
    ALLOCATION_CONTEXT, Agreed, Export, MAX_PAYLOAD, MIN_BLOCK, PREFERRED_BLOCK, u16_at, u32_at, u64_at,
};

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

pub(super) const OPTION_HEADER_LEN: usize = 16;
/// Longest data of an option: names have at most 4096 bytes, and a client asks for a handful of contexts.
pub(super) const MAX_OPTION: u32 = 64 << 10;
/// Options in one negotiation: real clients need fewer than ten.
const MAX_OPTIONS: u32 = 64;
/// Longest text, by the protocol.
const MAX_TEXT: u32 = 4096;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const ERR_UNSUP: u32 = (1 << 31) | 1;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_UNKNOWN: u32 = (1 << 31) | 6;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

const ALLOCATION: &[u8] = b"base:allocation";

/// What the server says first.
pub(super) fn greeting() -> Vec<u8> {
    let mut out = NBD_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out
}

/// How the conversation goes on, after what is to be sent was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Option,
    /// Requests follow.
    Requests(Agreed),
    Close,
}

/// One client's negotiation.
#[derive(Debug)]
pub(super) struct Negotiation<'a> {
    export: &'a Export,
    zeroes: bool,
    agreed: Agreed,
    /// The name that the metadata context was chosen for.
    allocation_of: Option<Vec<u8>>,
    options: u32,
}

impl<'a> Negotiation<'a> {
    /// Begins with the client's flags; none if it wants what there is not.
    pub fn new(export: &'a Export, client_flags: u32) -> Option<Self> {
        let known = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        if client_flags & !known != 0 || client_flags & u32::from(FIXED_NEWSTYLE) == 0 {
            return None;
        }
        let zeroes = client_flags & u32::from(NO_ZEROES) == 0;
        Some(Self { export, zeroes, agreed: Agreed::default(), allocation_of: None, options: 0 })
    }

    /// Reads the head of an option: which, and how much data follows. None if it is none or too much follows.
    pub fn option_head(bytes: &[u8; OPTION_HEADER_LEN]) -> Option<(u32, u32)> {
        let (option, len) = (u32_at(bytes, 8)?, u32_at(bytes, 12)?);
        (u64_at(bytes, 0)? == OPTION_MAGIC && len <= MAX_OPTION).then_some((option, len))
    }

    /// Answers an option.
    pub fn option(&mut self, option: u32, data: &[u8]) -> (Vec<u8>, Next) {
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return (Vec::new(), Next::Close);
        }
        let error = |code| (reply(option, code, &[]), Next::Option);
        match option {
            OPT_EXPORT_NAME if !self.is_ours(data) => (Vec::new(), Next::Close),
            OPT_EXPORT_NAME => {
                let mut out = self.export.size_bytes.to_be_bytes().to_vec();
                out.extend_from_slice(&self.export.flags().to_be_bytes());
                out.resize(out.len() + if self.zeroes { 124 } else { 0 }, 0);
                (out, Next::Requests(self.agreed_for(data)))
            }
            OPT_ABORT => (reply(option, REP_ACK, &[]), Next::Close),
            OPT_LIST if !data.is_empty() => error(ERR_INVALID),
            OPT_LIST => {
                let mut server = (self.export.name.len() as u32).to_be_bytes().to_vec();
                server.extend_from_slice(self.export.name.as_bytes());
                let mut out = reply(option, REP_SERVER, &server);
                out.extend(reply(option, REP_ACK, &[]));
                (out, Next::Option)
            }
            OPT_INFO | OPT_GO => match info_request(data) {
                None => error(ERR_INVALID),
                Some((name, _)) if !self.is_ours(name) => error(ERR_UNKNOWN),
                Some((name, wanted)) => {
                    let mut out = self.infos(option, &wanted);
                    out.extend(reply(option, REP_ACK, &[]));
                    let go = Next::Requests(self.agreed_for(name));
                    (out, if option == OPT_GO { go } else { Next::Option })
                }
            },
            OPT_STRUCTURED_REPLY if !data.is_empty() => error(ERR_INVALID),
            OPT_STRUCTURED_REPLY => {
                self.agreed.structured = true;
                (reply(option, REP_ACK, &[]), Next::Option)
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.contexts(option, data),
            // STARTTLS too: whoever can open the socket is the administrator of this host.
            _ => error(ERR_UNSUP),
        }
    }

    fn is_ours(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    /// A context counts only for the name that it was chosen for.
    fn agreed_for(&self, name: &[u8]) -> Agreed {
        Agreed { allocation: self.allocation_of.as_deref() == Some(name), ..self.agreed }
    }

    fn infos(&self, option: u32, wanted: &[u16]) -> Vec<u8> {
        let info = |kind: u16, parts: &[&[u8]]| {
            let mut data = kind.to_be_bytes().to_vec();
            parts.iter().for_each(|part| data.extend_from_slice(part));
            reply(option, REP_INFO, &data)
        };
        let export = self.export;
        let mut out = info(INFO_EXPORT, &[&export.size_bytes.to_be_bytes(), &export.flags().to_be_bytes()]);
        for (kind, text) in [(INFO_NAME, &export.name), (INFO_DESCRIPTION, &export.description)] {
            if wanted.contains(&kind) {
                out.extend(info(kind, &[text.as_bytes()]));
            }
        }
        // Asked for or not: clients that do not know it skip it.
        let sizes = [MIN_BLOCK, PREFERRED_BLOCK, MAX_PAYLOAD].map(u32::to_be_bytes);
        out.extend(info(INFO_BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]));
        out
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> (Vec<u8>, Next) {
        let set = option == OPT_SET_META_CONTEXT;
        if set {
            self.allocation_of = None;
        }
        let answer = |code| (reply(option, code, &[]), Next::Option);
        let Some((name, queries)) = context_request(data) else { return answer(ERR_INVALID) };
        if !self.agreed.structured {
            return answer(ERR_INVALID);
        }
        if !self.is_ours(name) {
            return answer(ERR_UNKNOWN);
        }
        let listed = |q: &&[u8]| *q == ALLOCATION || (!set && *q == b"base:");
        let wanted = queries.iter().any(listed) || (!set && queries.is_empty());
        let mut out = Vec::new();
        if wanted && self.export.has_map {
            let mut context = if set { ALLOCATION_CONTEXT } else { 0 }.to_be_bytes().to_vec();
            context.extend_from_slice(ALLOCATION);
            out = reply(option, REP_META_CONTEXT, &context);
            if set {
                self.allocation_of = Some(name.to_vec());
            }
        }
        out.extend(reply(option, REP_ACK, &[]));
        (out, Next::Option)
    }
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// A text with its length before it, and what follows.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32_at(data, 0)?;
    let rest = data.get(4..)?;
    if len > MAX_TEXT { None } else { rest.split_at_checked(len as usize) }
}

/// The data of INFO and GO: the export's name and what is asked about it.
fn info_request(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let (name, rest) = text(data)?;
    let count = usize::from(u16_at(rest, 0)?);
    let asked = rest.get(2..)?;
    (asked.len() == count * 2).then(|| (name, (0..count).filter_map(|i| u16_at(asked, i * 2)).collect()))
}

/// The data of the two options about contexts: the export's name and the queries.
fn context_request(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (name, rest) = text(data)?;
    let count = u32_at(rest, 0)?;
    let mut rest = rest.get(4..)?;
    // No query takes less than its length: a count that promises more is not believed.
    let mut queries = Vec::with_capacity((count as usize).min(rest.len() / 4));
    for _ in 0..count {
        let (query, after) = text(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn export(has_map: bool) -> Export {
        Export {
            name: "webstore".into(),
            description: "as of noon".into(),
            size_bytes: 1 << 30,
            read_only: true,
            has_map,
        }
    }

    fn named(name: &str, rest: &[u8]) -> Vec<u8> {
        let mut out = (name.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(rest);
        out
    }

    /// Kinds of the replies, in order.
    fn kinds(mut out: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while !out.is_empty() {
            assert_eq!(u64_at(out, 0), Some(OPTION_REPLY_MAGIC));
            kinds.push(u32_at(out, 12).unwrap());
            out = &out[20 + u32_at(out, 16).unwrap() as usize..];
        }
        kinds
    }

    fn query(name: &str, queries: &[&str]) -> Vec<u8> {
        let mut rest = (queries.len() as u32).to_be_bytes().to_vec();
        queries.iter().for_each(|q| rest.extend(named(q, &[])));
        named(name, &rest)
    }

    #[test]
    fn a_client_that_goes_gets_what_it_asked_for() {
        let export = export(true);
        let mut n = Negotiation::new(&export, 3).unwrap();
        assert_eq!(n.option(OPT_SET_META_CONTEXT, &query("", &["base:allocation"])).1, Next::Option);
        let (out, next) = n.option(OPT_GO, &named("", &[0, 1, 0, 3]));
        assert_eq!(kinds(&out), [REP_INFO, REP_INFO, REP_ACK]);
        assert_eq!(next, Next::Requests(Agreed::default()), "no context without structured replies");

        let mut n = Negotiation::new(&export, 3).unwrap();
        assert_eq!(kinds(&n.option(OPT_STRUCTURED_REPLY, &[]).0), [REP_ACK]);
        let (out, _) = n.option(OPT_SET_META_CONTEXT, &query("webstore", &["qemu:x", "base:allocation"]));
        assert_eq!(kinds(&out), [REP_META_CONTEXT, REP_ACK]);
        let (_, next) = n.option(OPT_INFO, &named("webstore", &[0, 0]));
        assert_eq!(next, Next::Option);
        let both = Agreed { structured: true, allocation: true };
        assert_eq!(n.option(OPT_GO, &named("webstore", &[0, 0])).1, Next::Requests(both));
        let other = Agreed { structured: true, allocation: false };
        assert_eq!(n.option(OPT_GO, &named("", &[0, 0])).1, Next::Requests(other), "chosen for another name");
    }

    #[test]
    fn an_old_client_gets_the_size_and_its_zeroes() {
        let export = export(false);
        let (out, next) = Negotiation::new(&export, 1).unwrap().option(OPT_EXPORT_NAME, b"webstore");
        assert_eq!((out.len(), next), (134, Next::Requests(Agreed::default())));
        let (out, _) = Negotiation::new(&export, 3).unwrap().option(OPT_EXPORT_NAME, b"");
        assert_eq!((out.len(), u64_at(&out, 0)), (10, Some(1 << 30)));
        assert_eq!(Negotiation::new(&export, 1).unwrap().option(OPT_EXPORT_NAME, b"x").1, Next::Close);
    }

    #[test]
    fn what_is_unknown_or_malformed_is_refused_and_the_conversation_goes_on() {
        let export = export(false);
        let mut n = Negotiation::new(&export, 3).unwrap();
        for (option, data, kind) in [
            (5, vec![], ERR_UNSUP),
            (11, vec![], ERR_UNSUP),
            (4711, vec![1, 2, 3], ERR_UNSUP),
            (OPT_LIST, vec![1], ERR_INVALID),
            (OPT_GO, vec![], ERR_INVALID),
            (OPT_GO, named("webstore", &[0, 2, 0, 3]), ERR_INVALID),
            (OPT_GO, named("other", &[0, 0]), ERR_UNKNOWN),
            (OPT_SET_META_CONTEXT, query("webstore", &["base:allocation"]), ERR_INVALID),
            (OPT_STRUCTURED_REPLY, vec![0], ERR_INVALID),
            (OPT_LIST_META_CONTEXT, named("webstore", &u32::MAX.to_be_bytes()), ERR_INVALID),
        ] {
            let (out, next) = n.option(option, &data);
            assert_eq!((kinds(&out), next), (vec![kind], Next::Option), "option {option}");
        }
        assert_eq!(kinds(&n.option(OPT_LIST, &[]).0), [REP_SERVER, REP_ACK]);
        n.option(OPT_STRUCTURED_REPLY, &[]);
        let (out, _) = n.option(OPT_LIST_META_CONTEXT, &query("webstore", &[]));
        assert_eq!(kinds(&out), [REP_ACK], "there is no map");
        assert_eq!(n.option(OPT_ABORT, &[]).1, Next::Close);
        assert!(Negotiation::new(&export, 0).is_none() && Negotiation::new(&export, 7).is_none());
        let mut head = OPTION_MAGIC.to_be_bytes().to_vec();
        head.extend_from_slice(&OPT_LIST.to_be_bytes());
        head.extend_from_slice(&(MAX_OPTION + 1).to_be_bytes());
        assert_eq!(Negotiation::option_head(head[..].try_into().unwrap()), None);
    }

    proptest! {
        #[test]
        fn any_options_end_in_replies_or_a_close(
            options in proptest::collection::vec((0u32..13, proptest::collection::vec(any::<u8>(), 0..64)), 0..100)
        ) {
            let export = export(true);
            let mut n = Negotiation::new(&export, 3).unwrap();
            for (i, (option, data)) in options.iter().enumerate() {
                let (out, next) = n.option(*option, data);
                if *option != OPT_EXPORT_NAME {
                    kinds(&out);
                }
                if next != Next::Option {
                    return Ok(());
                }
                prop_assert!(i < MAX_OPTIONS as usize);
            }
        }
    }
}
