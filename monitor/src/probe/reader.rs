//! Reads one ring buffer's memory, which the kernel shares: records in place, and room given back for
//! many of them at once. A position that is stored for each record is a cache line that the reader and
//! every CPU that writes records take from each other.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

// `include/uapi/linux/bpf.h`, Linux 6.18; unchanged since 5.8.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Length, flags and page of a record, before it.
const HEADER: usize = 8;

/// Bytes after which their room is given back.
const RELEASE: usize = 1 << 16;

/// The ring as its one reader sees it.
#[derive(Debug)]
pub(super) struct Reader {
    /// The page with the reader's position.
    consumer: Mapping,
    /// The page with the programs' position, then the data, twice: a record that wraps around is in one
    /// piece.
    producer: Mapping,
    page: usize,
    /// A power of two.
    ring_bytes: usize,
    /// Up to where records were taken.
    at: usize,
    /// Up to where their room was given back.
    released: usize,
}

/// What is to be taken next from a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    None,
    /// A record that is still being written.
    Unfinished,
    /// A record of that time, in nanoseconds.
    At(u64),
}

impl Reader {
    /// # Errors
    /// The kernel does not let the ring be mapped.
    pub(super) fn map(ring: BorrowedFd<'_>, ring_bytes: usize) -> io::Result<Self> {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(io::Error::other)?;
        if !ring_bytes.is_power_of_two() {
            return Err(io::Error::other("its size is not a power of two"));
        }
        // `bpf_ringbuf_mmap_user()` in `kernel/bpf/ringbuf.c`.
        let consumer = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let at = consumer.position().load(Ordering::SeqCst);
        Ok(Self {
            consumer,
            producer: Mapping::new(ring, page, page + 2 * ring_bytes, libc::PROT_READ)?,
            page,
            ring_bytes,
            at,
            released: at,
        })
    }

    /// Up to where records are written, or being written, in bytes since the ring was made.
    pub(super) fn written(&self) -> usize {
        self.producer.position().load(Ordering::SeqCst)
    }

    /// Up to where records were taken, likewise.
    pub(super) const fn taken(&self) -> usize {
        self.at
    }

    /// Whether a record was not taken that lies before a position.
    pub(super) const fn has_before(&self, written: usize) -> bool {
        is_before(self.at, written)
    }

    /// The oldest record that was not taken, if it lies before a position that [`Self::written`] gave.
    pub(super) fn head(&self, written: usize) -> Head {
        if !is_before(self.at, written) {
            return Head::None;
        }
        match self.record(self.at) {
            None => Head::Unfinished,
            Some((_, record)) => Head::At(time(record)),
        }
    }

    /// Hands over records while they lie before a position, are at most as old as a time says, and
    /// `left` allows.
    pub(super) fn drain(
        &mut self,
        written: usize,
        newest_ns: u64,
        left: &mut usize,
        take: &mut impl FnMut(&[u8]),
    ) {
        while *left > 0 && is_before(self.at, written) {
            let Some((header, record)) = self.record(self.at) else {
                return;
            };
            if header & DISCARDED == 0 {
                if time(record) > newest_ns {
                    return;
                }
                take(record);
                *left -= 1;
            }
            self.at = self
                .at
                .wrapping_add((HEADER + record.len()).next_multiple_of(HEADER));
            if self.at.wrapping_sub(self.released) >= RELEASE {
                self.release();
            }
        }
    }

    /// The header and the bytes of the record at a position; None while it is being written.
    fn record(&self, at: usize) -> Option<(u32, &[u8])> {
        let start = self.page + (at & (self.ring_bytes - 1));
        // SAFETY: `start` is a multiple of 8, as every position is, and less than `page + ring_bytes`,
        // behind which as much is mapped again. The kernel changes it by atomic stores only.
        let header = unsafe { AtomicU32::from_ptr(self.producer.start.as_ptr().add(start).cast()) };
        // Pairs with the exchange that ends the writing (`bpf_ringbuf_commit()`).
        let header = header.load(Ordering::Acquire);
        let length = (header & !(BUSY | DISCARDED)) as usize;
        // No record is longer than the ring.
        if header & BUSY != 0 || HEADER + length > self.ring_bytes {
            return None;
        }
        // SAFETY: by the bound just checked it ends within the mapping; the record is written, and stays
        // as it is until its room is given back, for which `self` has to be borrowed mutably.
        let record = unsafe {
            let start = self.producer.start.as_ptr().add(start + HEADER);
            std::slice::from_raw_parts(start.cast(), length)
        };
        Some((header, record))
    }

    /// Gives the room of all records that were taken back.
    pub(super) fn release(&mut self) {
        if self.released != self.at {
            // Every byte of them was read before: pairs with the load in `__bpf_ringbuf_reserve()`.
            self.consumer.position().store(self.at, Ordering::Release);
            self.released = self.at;
        }
    }
}

/// Whether a position is before another; they wrap around.
const fn is_before(at: usize, end: usize) -> bool {
    end.wrapping_sub(at).cast_signed() > 0
}

/// Every record starts with its time in nanoseconds; one that does not is as old as can be.
fn time(record: &[u8]) -> u64 {
    record
        .first_chunk()
        .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its mapping, which any thread may use and unmap.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(
        ring: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        access: libc::c_int,
    ) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping, of memory that the kernel keeps there for this.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, length })
            .ok_or_else(|| io::Error::other("mapped at address zero"))
    }

    /// The position at its start, which only grows.
    const fn position(&self) -> &AtomicUsize {
        // SAFETY: the mapping lives as long as `self` and starts with an aligned `unsigned long`, which
        // the kernel and this process change by atomic stores only.
        unsafe { AtomicUsize::from_ptr(self.start.as_ptr().cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The kernel's side of a ring, in a file.
#[cfg(test)]
pub(super) mod fixture {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::{BUSY, BorrowedFd, HEADER};

    pub(crate) const RING: usize = 1 << 13;
    pub(crate) const PAGE: usize = 1 << 12;

    #[derive(Debug)]
    pub(crate) struct Writer {
        pub(super) file: File,
        ring_bytes: usize,
        written: usize,
    }

    impl Writer {
        pub(crate) fn new(ring_bytes: usize) -> Self {
            let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC).unwrap());
            file.set_len((2 * PAGE + 2 * ring_bytes) as u64).unwrap();
            Self {
                file,
                ring_bytes,
                written: 0,
            }
        }

        pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }

        /// The position behind the newest record.
        pub(crate) const fn written(&self) -> usize {
            self.written
        }

        fn put(&self, at: usize, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                let at = 2 * PAGE + (at + index) % self.ring_bytes;
                for copy in [at, at + self.ring_bytes] {
                    self.file.write_all_at(&[*byte], copy as u64).unwrap();
                }
            }
        }

        /// What the reader has given back.
        pub(crate) fn given_back(&self) -> usize {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            usize::from_ne_bytes(bytes)
        }

        /// Writes a record that is not finished; false where there is no room.
        pub(crate) fn reserve(&mut self, bytes: &[u8]) -> bool {
            let at = self.written;
            let end = at + (HEADER + bytes.len()).next_multiple_of(HEADER);
            if end - self.given_back() > self.ring_bytes {
                return false;
            }
            self.commit(at, bytes.len(), BUSY);
            self.put(at + HEADER, bytes);
            self.written = end;
            self.file
                .write_all_at(&end.to_ne_bytes(), PAGE as u64)
                .unwrap();
            true
        }

        pub(crate) fn commit(&self, at: usize, length: usize, flags: u32) {
            let header = u32::try_from(length).unwrap() | flags;
            self.put(at, &header.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::fixture::{PAGE, Writer};
    use super::*;

    const RING: usize = 1 << 12;

    #[derive(Clone, Debug)]
    enum Act {
        /// A record of that many bytes: written, or discarded.
        Write(usize, bool),
        Drain(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0_usize..200, any::<bool>()).prop_map(|(length, is_kept)| Act::Write(length, is_kept)),
            (1_usize..20).prop_map(Act::Drain),
        ]
    }

    proptest! {
        #[test]
        fn records_of_any_length_are_taken_whole(
            acts in proptest::collection::vec(act(), 1..200),
        ) {
            let mut writer = Writer::new(RING);
            let mut reader = Reader::map(writer.descriptor(), RING).unwrap();
            let mut number = 0_u8;
            let (mut expected, mut taken): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
            for act in acts.into_iter().chain([Act::Write(1, true), Act::Drain(1_000)]) {
                match act {
                    Act::Write(length, is_kept) => {
                        number = number.wrapping_add(1);
                        let at = writer.written();
                        let bytes = vec![number; length];
                        if writer.reserve(&bytes) {
                            prop_assert_eq!(reader.record(at), None);
                            writer.commit(at, length, if is_kept { 0 } else { DISCARDED });
                            expected.extend(is_kept.then_some(bytes));
                        }
                    }
                    Act::Drain(limit) => {
                        let (mut left, before) = (limit, taken.len());
                        let written = reader.written();
                        reader.drain(written, u64::MAX, &mut left, &mut |record| {
                            taken.push(record.to_vec());
                        });
                        reader.release();
                        prop_assert_eq!(taken.len() - before, (expected.len() - before).min(limit));
                        prop_assert_eq!(limit - left, taken.len() - before);
                        prop_assert_eq!(reader.taken(), writer.given_back());
                    }
                }
            }
            prop_assert_eq!(&taken, &expected);
            prop_assert_eq!(reader.taken(), reader.written());
        }
    }

    #[test]
    fn positions_wrap_around() {
        assert!(is_before(usize::MAX - 7, 0));
        assert!(!is_before(0, usize::MAX - 7));
        assert!(!is_before(8, 8));
    }

    #[test]
    fn room_is_given_back_while_a_long_drain_goes_on() {
        const RING_BYTES: usize = 4 * RELEASE;
        let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC).unwrap());
        file.set_len((2 * PAGE + 2 * RING_BYTES) as u64).unwrap();
        // Empty records only: headers of zero.
        let end = RING_BYTES.to_ne_bytes();
        file.write_all_at(&end, PAGE as u64).unwrap();
        let mut reader = Reader::map(file.as_fd(), RING_BYTES).unwrap();
        let mut released = Vec::new();
        let mut left = usize::MAX;
        reader.drain(RING_BYTES, u64::MAX, &mut left, &mut |_| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, 0).unwrap();
            released.push(usize::from_ne_bytes(bytes));
        });
        assert_eq!(usize::MAX - left, RING_BYTES / HEADER);
        released.dedup();
        assert_eq!(released, [0, RELEASE, 2 * RELEASE, 3 * RELEASE]);
        assert_eq!(reader.taken(), RING_BYTES);
    }
}
