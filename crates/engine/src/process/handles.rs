//! Handles of files, given from one process to the next over a Unix socket.
//!
//! Always holds: one message is one byte and the handles that come with it, at most [`HANDLES_MAX`]; what is received is closed when a
//! program is executed.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Standard input, output and error.
pub(super) const HANDLES_MAX: usize = 3;
const BYTE: u8 = b'h';

pub(super) fn send(to: &impl AsFd, handles: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = handles.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many handles at once"));
    }
    sendmsg(to, &[IoSlice::new(&[BYTE])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

pub(super) fn receive(from: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 || byte != [BYTE] {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed without an answer"));
    }
    let mut handles = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            handles.extend(sent);
        }
    }
    Ok(handles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn handles_arrive_in_order_and_none_is_none() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&one, &[]).unwrap();
        send(&one, &[OwnedFd::from(writer)]).unwrap();
        assert!(receive(&other).unwrap().is_empty());
        let mut got = receive(&other).unwrap();
        assert_eq!(got.len(), 1);
        let mut writer = io::PipeWriter::from(got.remove(0));
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(one);
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
