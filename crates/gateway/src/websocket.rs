//! The frames of WebSocket as they pass (RFC 6455): only so much that a gateway can say its own word between two of them.
//!
//! Always holds: nothing is kept of what they carry.

/// A Close frame of a server, with the code for "come again, to whoever serves then" (1012, IANA's registry of close codes).
pub const CLOSE_RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

const CLOSE: u8 = 0x8;
const HEAD_BYTES_MAX: usize = 14;

/// What a server has sent so far.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    read: usize,
    /// Of a frame's payload, what is still to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Bytes that went on their way.
    pub fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= step as u64;
                bytes = &bytes[step..];
                continue;
            }
            self.head[self.read] = first;
            self.read += 1;
            bytes = &bytes[1..];
            if self.read >= 2 && self.read == self.head_bytes() {
                self.closed |= self.head[0] & 0xf == CLOSE;
                self.left = self.payload_bytes();
                self.read = 0;
            }
        }
    }

    /// With the second byte read: how long this head is.
    fn head_bytes(&self) -> usize {
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_bytes(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => u64::from(short),
        }
    }

    /// Whether a Close frame would be read as one: it stands between two frames, and none went before.
    pub fn may_close(&self) -> bool {
        self.read == 0 && self.left == 0 && !self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, payload_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        match payload_bytes {
            0..126 => bytes.push(payload_bytes as u8),
            126..65_536 => {
                bytes.push(126);
                bytes.extend((payload_bytes as u16).to_be_bytes());
            }
            _ => {
                bytes.push(127);
                bytes.extend((payload_bytes as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + payload_bytes, 0x88);
        bytes
    }

    #[test]
    fn a_word_fits_between_frames_and_nowhere_else() {
        let sizes = [0, 1, 125, 126, 300, 65_535, 65_536, 70_000];
        for (size, step) in sizes.into_iter().flat_map(|size| [1, 7, 100_000].map(|step| (size, step))) {
            let (bytes, mut frames) = (frame(2, size), Frames::default());
            let mut sent = 0;
            assert!(frames.may_close());
            for part in bytes.chunks(step) {
                frames.wrote(part);
                sent += part.len();
                assert_eq!(frames.may_close(), sent == bytes.len(), "{sent} of a frame of {size} bytes");
            }
        }
        let mut frames = Frames::default();
        frames.wrote(&[frame(1, 5), frame(9, 0), frame(8, 2)].concat());
        assert!(!frames.may_close(), "the server closed it itself");
    }
}
