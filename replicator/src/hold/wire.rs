//! What holder and worker say to each other, one message per packet of a socket pair: kind, length of the key, key,
//! state; a descriptor travels beside it.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Of a key and of a state: a volume's name and some numbers need less than 300 bytes.
pub(super) const MAX_KEY: usize = 255;
pub(super) const MAX_STATE: usize = 3840;

const KEEP: u8 = 1;
const DROP: u8 = 2;
const END: u8 = 3;
const UP: u8 = 4;

/// A message as it is sent.
pub(super) enum Outgoing<'a> {
    Keep {
        key: &'a str,
        state: &'a [u8],
        descriptor: BorrowedFd<'a>,
    },
    Drop {
        key: &'a str,
    },
    /// Everything that is kept has been sent.
    End,
    /// The worker has started: whatever ends it now is no failed start.
    Up,
}

/// A message as it arrives.
#[derive(Debug)]
pub(super) enum Message {
    Keep { key: String, state: Vec<u8>, descriptor: OwnedFd },
    Drop { key: String },
    End,
    Up,
}

/// Sends without waiting: the queue takes all messages that there can be.
pub(super) fn send(socket: BorrowedFd<'_>, message: &Outgoing<'_>) -> io::Result<()> {
    let (kind, key, state, descriptor) = match message {
        Outgoing::Keep { key, state, descriptor } => (KEEP, *key, *state, Some([*descriptor])),
        Outgoing::Drop { key } => (DROP, *key, [].as_slice(), None),
        Outgoing::End => (END, "", [].as_slice(), None),
        Outgoing::Up => (UP, "", [].as_slice(), None),
    };
    if key.len() > MAX_KEY || state.len() > MAX_STATE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too long to be kept"));
    }
    let head = [kind, u8::try_from(key.len()).unwrap_or(u8::MAX)];
    let parts = [IoSlice::new(&head), IoSlice::new(key.as_bytes()), IoSlice::new(state)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptors) = &descriptor
        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message, without waiting; none if the other side is gone.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    let mut bytes = [0; 2 + MAX_KEY + MAX_STATE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let n = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    if n == 0 {
        return Ok(None);
    }
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            descriptor = all.last().or(descriptor);
        }
    }
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a message that does not fit");
    let (kind, len) = (bytes[0], usize::from(bytes[1]));
    let key = bytes[..n].get(2..2 + len).and_then(|k| std::str::from_utf8(k).ok()).ok_or_else(strange)?;
    let (key, state) = (key.to_owned(), bytes[2 + len..n].to_vec());
    match (kind, descriptor) {
        (KEEP, Some(descriptor)) => Ok(Some(Message::Keep { key, state, descriptor })),
        (DROP, None) => Ok(Some(Message::Drop { key })),
        (END, None) => Ok(Some(Message::End)),
        (UP, None) => Ok(Some(Message::Up)),
        _ => Err(strange()),
    }
}
