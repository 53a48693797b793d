//! Flags of `events`, and the filters that it shares with `stuck`.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::{FILTERS, Format, NETNS, Netns, ProgramArgs, value};
use crate::tcp::{Family, State};

/// Flags of `events`.
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Table, or one JSON object per line
    #[arg(long, default_value = "text")]
    pub(crate) format: Format,
    /// Stop after N transitions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Stop after this time, for example 500ms, 10s, 2m or 1h [default: run until stopped]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) states: StateArgs,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
}

/// Which states a transition must join.
#[derive(Args, Debug)]
#[command(next_help_heading = FILTERS)]
pub(crate) struct StateArgs {
    /// State on either side of the transition: `time_wait`, or `TIME-WAIT` as in `ss`. The kernel
    /// announces neither the start nor the end of `TIME_WAIT`; `time_wait` selects the closes that
    /// continue as `TIME_WAIT` (inferred)
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) state: Vec<State>,
    /// State left
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) from: Vec<State>,
    /// State entered; `time_wait` as above
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = value::state)]
    pub(crate) to: Vec<State>,
}

/// Which sockets: all of the given flags must agree, any value of a flag suffices.
#[derive(Args, Debug)]
#[command(next_help_heading = FILTERS)]
pub(crate) struct FilterArgs {
    /// Local port, 1 to 65535, or a range: 9000-9010
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = value::ports)]
    pub(crate) local_port: Vec<RangeInclusive<u16>>,
    /// Remote port, or a range
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = value::ports)]
    pub(crate) remote_port: Vec<RangeInclusive<u16>>,
    /// Local address or network; host bits are ignored, so 10.1.2.3/8 means 10.0.0.0/8
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::network)]
    pub(crate) local: Vec<IpNet>,
    /// Remote address or network; host bits are ignored
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = value::network)]
    pub(crate) remote: Vec<IpNet>,
    /// Address family of the socket; IPv4 on an IPv6 socket is ipv6
    #[arg(long)]
    pub(crate) family: Option<Family>,
    #[arg(long, value_name = "NAME|INODE", value_parser = value::netns, help = NETNS)]
    pub(crate) netns: Option<Netns>,
}
