//! Chunk and hash, one core: the transfer's cutter beside fastcdc with BLAKE3, over the same bytes in memory.

use crate::row::{Row, median};
use crate::sync::tree::noise;
use fastcdc::v2020::FastCDC;
use nix::time::{ClockId, clock_gettime};
use pumasi_transfer::{Signatures, chunk};
use std::hint::black_box;

const DATA_BYTES: usize = 256 << 20;

/// Processor time of this thread for one pass, as GB/s.
fn rate(mut pass: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(std::time::Duration::from);
    let begin = now()?;
    pass()?;
    Ok(DATA_BYTES as f64 / 1e9 / (now()? - begin).as_secs_f64())
}

pub fn race(pairs: u32) -> anyhow::Result<Vec<Row>> {
    let data = noise(DATA_BYTES, 1);
    let (mut buffer, mut lens) = (Vec::new(), [0usize; 2]);
    let [mut ours, mut signed, mut theirs, mut hash, mut ratios] = [const { Vec::new() }; 5];
    for pair in 0..pairs {
        eprintln!("chunks: pair {} of {pairs}", pair + 1);
        lens = [0; 2];
        ours.push(rate(|| {
            chunk::cut::<std::io::Error>(&data[..], &mut buffer, |_, _| {
                lens[0] += 1;
                Ok(())
            })?;
            Ok(())
        })?);
        theirs.push(rate(|| {
            let (cdc, mut at) = (FastCDC::new(&data, 16 << 10, 64 << 10, 256 << 10), 0);
            while at < data.len() {
                let (_, to) = cdc.cut(at, data.len() - at);
                black_box(blake3::hash(&data[at..to]));
                (at, lens[1]) = (to, lens[1] + 1);
            }
            Ok(())
        })?);
        ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
        signed.push(rate(|| {
            let mut signatures = Signatures::for_dataset(1 << 30);
            chunk::cut::<std::io::Error>(&data[..], &mut buffer, |c, bytes| {
                signatures.sign(c, bytes);
                Ok(())
            })?;
            Ok(())
        })?);
        hash.push(rate(|| {
            data.chunks(64 << 10).for_each(|c| {
                black_box(blake3::hash(c));
            });
            Ok(())
        })?);
    }
    let ratio = median(ratios);
    Ok(vec![Row {
        what: "chunk and hash, GB per CPU-second".into(),
        ours: format!("{:.2}", median(ours)),
        rival: "fastcdc 3 + BLAKE3".into(),
        theirs: format!("{:.2}", median(theirs)),
        ratio,
        note: format!(
            "chunks of {} and {} KiB on average; ours reads through a buffer; with signatures of 256-byte blocks {:.2}; \
             BLAKE3 alone {:.2}",
            DATA_BYTES / 1024 / lens[0].max(1),
            DATA_BYTES / 1024 / lens[1].max(1),
            median(signed),
            median(hash)
        ),
    }])
}
