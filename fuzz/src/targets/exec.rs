//! Frames of a command in an instance, from either side.

use bytes::BytesMut;
use pumasi_api::exec::{FRAME_BYTES_MAX, Frame};

/// The frames up to the end or to what is none, and whether it is none.
fn read(pieces: &[&[u8]]) -> (Vec<Frame>, bool) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        assert!(buffer.len() <= piece.len() + FRAME_BYTES_MAX + 5, "more is kept than one frame");
    }
    (frames, false)
}

/// However they arrive they are the same frames, and each is written as it was read.
pub fn frames(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let pieces: Vec<&[u8]> = bytes.chunks(usize::from(first) / 2 + 1).collect();
    let whole = read(&[bytes]);
    assert_eq!(whole, read(&pieces));
    for frame in whole.0 {
        let mut written = BytesMut::from(&frame.encode().expect("what was read can be written")[..]);
        assert_eq!(Frame::decode(&mut written).expect("what was written can be read"), Some(frame));
        assert!(written.is_empty());
    }
}
