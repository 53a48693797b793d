//! Two namespaces with sockets in every state that `ss` has a name for.

use std::net::{Shutdown, TcpListener, TcpStream};

use super::daemon::Daemon;
use super::netns::Veth;
use super::oracle::{V4, assert_agrees};
use super::socket::{Pair, begin_connect, listen_in, read_end};

/// Every state at once, over IPv4, held there by dropped packets.
pub(crate) struct EveryState {
    wire: Veth,
    _listener: TcpListener,
    _ends: Vec<TcpStream>,
}

impl EveryState {
    pub(crate) fn new() -> Self {
        let wire = Veth::new();
        let listener = listen_in(&wire.right, Veth::RIGHT[0]);
        let pair = || Pair::new(&wire.left, &listener);
        let closed_by_client = || {
            let Pair { client, mut server } = pair();
            drop(client);
            read_end(&mut server);
            server
        };

        let open = pair();
        let mut half_closed = pair();
        half_closed.client.shutdown(Shutdown::Write).unwrap();
        read_end(&mut half_closed.server);
        let waiting = closed_by_client();
        drop(closed_by_client());
        let crossing = pair();
        let dying = closed_by_client();
        wire.right
            .settle(&[(V4, "LISTEN", 1), (V4, "ESTAB", 2), (V4, "CLOSE-WAIT", 3)]);

        wire.left
            .drop_incoming("tcp flags & (syn | ack) == (syn | ack)");
        let begun = begin_connect(&wire.left, listener.local_addr().unwrap());
        wire.right.settle(&[
            (V4, "LISTEN", 1),
            (V4, "ESTAB", 2),
            (V4, "CLOSE-WAIT", 3),
            (V4, "SYN-RECV", 1),
        ]);
        wire.right.drop_incoming("meta l4proto tcp");
        drop((dying, crossing.client));
        // Its FIN has left, and is lost, before the other one starts.
        wire.left.settle(&[
            (V4, "ESTAB", 1),
            (V4, "SYN-SENT", 1),
            (V4, "FIN-WAIT-1", 1),
            (V4, "FIN-WAIT-2", 2),
            (V4, "TIME-WAIT", 2),
        ]);
        drop(crossing.server);

        let ends = [
            open.client,
            open.server,
            half_closed.client,
            half_closed.server,
            waiting,
            begun,
        ];
        let every_state = Self {
            wire,
            _listener: listener,
            _ends: ends.into(),
        };
        every_state.settle();
        every_state
    }

    fn settle(&self) {
        self.wire.left.settle(&[
            (V4, "ESTAB", 1),
            (V4, "SYN-SENT", 1),
            (V4, "FIN-WAIT-2", 2),
            (V4, "TIME-WAIT", 2),
            (V4, "CLOSING", 1),
        ]);
        self.wire.right.settle(&[
            (V4, "LISTEN", 1),
            (V4, "ESTAB", 1),
            (V4, "SYN-RECV", 1),
            (V4, "FIN-WAIT-1", 1),
            (V4, "CLOSE-WAIT", 2),
            (V4, "LAST-ACK", 1),
        ]);
    }

    /// Lets the packets through, and with them every state that was held.
    pub(crate) fn release(&self) {
        self.wire.left.heal();
        self.wire.right.heal();
        self.wire.left.settle(&[
            (V4, "ESTAB", 2),
            (V4, "FIN-WAIT-2", 2),
            (V4, "TIME-WAIT", 3),
        ]);
        self.wire.right.settle(&[
            (V4, "LISTEN", 1),
            (V4, "ESTAB", 2),
            (V4, "CLOSE-WAIT", 2),
            (V4, "TIME-WAIT", 1),
        ]);
    }

    pub(crate) fn assert_agrees(&self, daemon: &Daemon) {
        assert_agrees(daemon, &self.wire.left);
        assert_agrees(daemon, &self.wire.right);
    }
}
