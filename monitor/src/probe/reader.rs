//! Reads the ring buffer's memory, which the kernel shares: records in place, and room given back for
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
}

impl Reader {
    /// # Errors
    /// The kernel does not let the ring be mapped.
    pub(super) fn map(ring: BorrowedFd<'_>, ring_bytes: usize) -> io::Result<Self> {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(io::Error::other)?;
        if !ring_bytes.is_power_of_two() {
            return Err(io::Error::other("its size is no power of two"));
        }
        // `bpf_ringbuf_mmap_user()` in `kernel/bpf/ringbuf.c`.
        Ok(Self {
            consumer: Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?,
            producer: Mapping::new(ring, page, page + 2 * ring_bytes, libc::PROT_READ)?,
            page,
            ring_bytes,
        })
    }

    /// Up to where records are written, or being written, in bytes since the ring was made.
    pub(super) fn written(&self) -> usize {
        self.producer.position().load(Ordering::SeqCst)
    }

    /// Up to where records were taken, likewise.
    pub(super) fn taken(&self) -> usize {
        self.consumer.position().load(Ordering::SeqCst)
    }

    /// Hands over the oldest records, at most `limit`; true when that limit ended it, false where there
    /// are no more, or the next one is still being written.
    pub(super) fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> bool {
        let mut at = self.taken();
        let mut released = at;
        let mut written = self.written();
        let mut left = limit;
        while left > 0 {
            if at == written {
                written = self.written();
                if at == written {
                    break;
                }
            }
            let Some((header, record)) = self.record(at) else {
                break;
            };
            if header & DISCARDED == 0 {
                take(record);
                left -= 1;
            }
            at = at.wrapping_add((HEADER + record.len()).next_multiple_of(HEADER));
            if at.wrapping_sub(released) >= RELEASE {
                self.release(at);
                released = at;
            }
        }
        if at != released {
            self.release(at);
        }
        left == 0
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

    /// Gives the room of all records before a position back.
    fn release(&self, at: usize) {
        // Every byte of them was read before: pairs with the load in `__bpf_ringbuf_reserve()`.
        self.consumer.position().store(at, Ordering::Release);
    }
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const RING: usize = 1 << 12;
    const PAGE: usize = 1 << 12;

    /// What the kernel's side does, into a file laid out like a ring.
    struct Writer {
        file: File,
        written: usize,
    }

    impl Writer {
        fn new() -> Self {
            let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC).unwrap());
            file.set_len((2 * PAGE + 2 * RING) as u64).unwrap();
            Self { file, written: 0 }
        }

        fn put(&self, at: usize, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                let at = 2 * PAGE + (at + index) % RING;
                for copy in [at, at + RING] {
                    self.file.write_all_at(&[*byte], copy as u64).unwrap();
                }
            }
        }

        fn taken(&self) -> usize {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, 0).unwrap();
            usize::from_ne_bytes(bytes)
        }

        /// False where there is no room.
        fn reserve(&mut self, bytes: &[u8]) -> bool {
            let at = self.written;
            let end = at + (HEADER + bytes.len()).next_multiple_of(HEADER);
            if end - self.taken() > RING {
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

        fn commit(&self, at: usize, length: usize, flags: u32) {
            let header = u32::try_from(length).unwrap() | flags;
            self.put(at, &header.to_ne_bytes());
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// A record of that many bytes: written, or discarded.
        Write(usize, bool),
        /// One that is being written until the next is.
        Begin(usize),
        Drain(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0_usize..200, any::<bool>()).prop_map(|(length, is_kept)| Act::Write(length, is_kept)),
            (0_usize..200).prop_map(Act::Begin),
            (1_usize..20).prop_map(Act::Drain),
        ]
    }

    proptest! {
        #[test]
        fn every_record_is_taken_once_in_order(acts in proptest::collection::vec(act(), 1..200)) {
            let mut writer = Writer::new();
            let mut reader = Reader::map(writer.file.as_fd(), RING).unwrap();
            let mut number = 0_u8;
            let mut expected: Vec<Vec<u8>> = Vec::new();
            let mut taken: Vec<Vec<u8>> = Vec::new();
            // A record that is being written, and how many of `expected` come before it.
            let mut open: Option<(usize, usize, usize)> = None;
            for act in acts.into_iter().chain([Act::Write(1, true), Act::Drain(1_000)]) {
                match act {
                    Act::Write(length, is_kept) => {
                        if let Some((at, length, _)) = open.take() {
                            writer.commit(at, length, 0);
                        }
                        number = number.wrapping_add(1);
                        let at = writer.written;
                        let bytes = vec![number; length];
                        if writer.reserve(&bytes) {
                            writer.commit(at, length, if is_kept { 0 } else { DISCARDED });
                            expected.extend(is_kept.then_some(bytes));
                        }
                    }
                    Act::Begin(length) if open.is_none() => {
                        number = number.wrapping_add(1);
                        let (at, before) = (writer.written, expected.len());
                        let bytes = vec![number; length];
                        if writer.reserve(&bytes) {
                            open = Some((at, length, before));
                            expected.push(bytes);
                        }
                    }
                    Act::Begin(_) => {}
                    Act::Drain(limit) => {
                        let ready = open.map_or(expected.len(), |(_, _, before)| before);
                        let wanted = (ready - taken.len()).min(limit);
                        let before = taken.len();
                        let has_more = reader.drain(limit, |record| taken.push(record.to_vec()));
                        prop_assert_eq!(taken.len() - before, wanted);
                        prop_assert_eq!(has_more, wanted == limit);
                        prop_assert_eq!(reader.taken(), writer.taken());
                    }
                }
            }
            prop_assert_eq!(&taken, &expected);
            prop_assert_eq!(reader.taken(), reader.written());
        }
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
        let mut taken = 0;
        let has_more = reader.drain(usize::MAX, |_| {
            taken += 1;
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, 0).unwrap();
            released.push(usize::from_ne_bytes(bytes));
        });
        assert!(!has_more);
        assert_eq!(taken, RING_BYTES / HEADER);
        released.dedup();
        assert_eq!(released, [0, RELEASE, 2 * RELEASE, 3 * RELEASE]);
        assert_eq!(reader.taken(), RING_BYTES);
    }
}
