//! The ring buffer's reader: takes records, and sleeps until the program wakes it.
//!
//! A wakeup for each record is what makes other tools slow. The program wakes nobody unless the
//! reader has said that it sleeps, and then once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::Duration;

use aya::maps::ring_buf::RingBufItem;
use aya::maps::{Array, MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Error;

/// The longest sleep.
const SLEEP_AT_MOST: Duration = Duration::from_secs(1);

pub(super) struct Ring {
    records: RingBuf<MapData>,
    /// 1 while the reader sleeps. The program sets it to 0.
    sleeping: Array<MapData, u32>,
    consumer: Position,
    producer: Position,
}

impl Ring {
    /// # Errors
    /// The kernel does not let the positions be mapped.
    pub(super) fn new(
        records: RingBuf<MapData>,
        sleeping: Array<MapData, u32>,
    ) -> Result<Self, Error> {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let map = |offset| {
            Position::map(records.as_fd(), offset).map_err(|source| Error::Kernel {
                action: "map the ring buffer's positions",
                reason: source.to_string(),
            })
        };
        // Two pages, then the data (`bpf_ringbuf_mmap_user()` in `kernel/bpf/ringbuf.c`).
        let (consumer, producer) = (map(0)?, map(page)?);
        Ok(Self {
            records,
            sleeping,
            consumer,
            producer,
        })
    }

    /// The oldest record; None where there is none, or the oldest is still being written.
    pub(super) fn next(&mut self) -> Option<RingBufItem<'_>> {
        self.records.next()
    }

    /// Call it inside the runtime.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub(super) fn wakeups(&self) -> Result<Wakeups, Error> {
        let register = || {
            let ring = self.records.as_fd().try_clone_to_owned()?;
            // SAFETY: it owns the descriptor, which stays open until it is dropped.
            let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
            ring.map(Wakeups).map_err(io::Error::from)
        };
        register().map_err(|source| Error::Kernel {
            action: "wait for the ring buffer",
            reason: source.to_string(),
        })
    }

    /// Asks the program for a wakeup with the next record. False, and nothing to wait for, where records
    /// are waiting or being written.
    ///
    /// The program moves the producer's position, then looks whether the reader sleeps; this says
    /// that it sleeps, then looks at the position. Whoever is later sees what the other has done. The
    /// program has no barrier between the two, so that its processor may still look too early, within
    /// some nanoseconds: the wakeup is then lost, and the next record's comes. A reader must not
    /// sleep without a limit.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn arm(&mut self) -> Result<bool, Error> {
        self.sleeping.set(0, 1, 0).map_err(|source| Error::Kernel {
            action: "ask the program for a wakeup",
            reason: source.to_string(),
        })?;
        fence(Ordering::SeqCst);
        Ok(self.producer.read() == self.consumer.read())
    }
}

/// Where a reader waits for the wakeup that it has asked for.
pub(crate) struct Wakeups(AsyncFd<OwnedFd>);

impl Wakeups {
    /// Waits for the wakeup, and not for ever: it may be lost.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub(crate) async fn next(&self) -> io::Result<()> {
        if let Ok(woken) = tokio::time::timeout(SLEEP_AT_MOST, self.0.readable()).await {
            woken?.clear_ready();
        }
        Ok(())
    }
}

/// The page with a position of the ring, which only grows: bytes since the ring was made.
struct Position(NonNull<libc::c_void>);

// SAFETY: it owns its mapping, which any thread may read and unmap.
unsafe impl Send for Position {}

impl Position {
    fn map(ring: BorrowedFd<'_>, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping, of a page that the kernel keeps there for this.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<usize>(),
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                offset,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page)
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at address zero"))
    }

    fn read(&self) -> usize {
        // SAFETY: the mapping lives as long as `self` and starts with an aligned `unsigned long`,
        // which the kernel and this process change by atomic stores only.
        unsafe { AtomicUsize::from_ptr(self.0.as_ptr().cast()) }.load(Ordering::SeqCst)
    }
}

impl Drop for Position {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        unsafe { libc::munmap(self.0.as_ptr(), size_of::<usize>()) };
    }
}
