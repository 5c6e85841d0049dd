//! Cuts: what one machine does not hear of another any more, or answers with a reset.
//!
//! A rule stands at the machine that would hear, so that the one that speaks notices nothing. The rules are those of the kernel's
//! packet filter inside of the namespace, and count what they met: a cut that met nothing has broken nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::machine::{Machine, Names};
use crate::verdict::say;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody hears of it.
    Lost,
    /// Whoever sent it is told that there is no such connection.
    Reset,
}

/// A port of one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    OfSender(u16),
    OfReceiver(u16),
}

/// One direction that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    at: Machine,
    from: Machine,
    port: Option<Port>,
    fate: Fate,
}

/// Nothing that `from` says comes to `to`.
pub(super) const fn one_way(from: Machine, to: Machine) -> Cut {
    Cut {
        at: to,
        from,
        port: None,
        fate: Fate::Lost,
    }
}

/// Two machines hear nothing of each other.
pub(super) const fn between(one: Machine, other: Machine) -> [Cut; 2] {
    [one_way(one, other), one_way(other, one)]
}

/// Each connection between two machines ends for both as soon as something is said on it.
pub(super) fn resets(one: Machine, other: Machine) -> [Cut; 2] {
    between(one, other).map(|cut| Cut {
        fate: Fate::Reset,
        ..cut
    })
}

/// A machine is cut from the server at this port of the hub, and from nothing else there.
pub(super) const fn service(client: Machine, port: u16) -> [Cut; 2] {
    [
        Cut {
            at: Machine::Hub,
            from: client,
            port: Some(Port::OfReceiver(port)),
            fate: Fate::Lost,
        },
        Cut {
            at: client,
            from: Machine::Hub,
            port: Some(Port::OfSender(port)),
            fate: Fate::Lost,
        },
    ]
}

impl Cut {
    /// The arguments of the packet filter.
    fn arguments(self) -> String {
        let from = self.from.address();
        let protocol = match (self.fate, self.port) {
            (Fate::Lost, None) => "",
            _ => " -p tcp",
        };
        let port = match self.port {
            None => String::new(),
            Some(Port::OfSender(port)) => format!(" --sport {port}"),
            Some(Port::OfReceiver(port)) => format!(" --dport {port}"),
        };
        let target = match self.fate {
            Fate::Lost => "DROP",
            Fate::Reset => "REJECT --reject-with tcp-reset",
        };
        format!("-A INPUT -s {from}{protocol}{port} -j {target}")
    }

    /// Where it stands.
    const fn machine(self) -> Machine {
        self.at
    }
}

/// Asks the packet filter of a machine. It is entered with `nsenter`, which leaves everything else as it is.
fn filter(names: Names, machine: Machine, line: &str) -> anyhow::Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", names.path(machine).display()));
    command
        .args(["iptables", "--wait"])
        .args(line.split_whitespace());
    let output = command.output().context("nsenter, of util-linux")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`iptables {line}` at {machine} failed: {}", said.trim());
    }
    String::from_utf8(output.stdout).context("what iptables says")
}

/// Cuts that are in force, at the latest until this is dropped.
#[derive(Debug)]
pub(super) struct Partition {
    names: Names,
    cuts: Vec<Cut>,
}

impl Partition {
    /// Makes all of these cuts.
    pub(super) fn make(names: Names, cuts: Vec<Cut>) -> anyhow::Result<Self> {
        let partition = Self { names, cuts };
        for cut in &partition.cuts {
            filter(names, cut.machine(), &cut.arguments())?;
        }
        Ok(partition)
    }

    /// Heals them, and returns how many packets they met.
    pub(super) fn heal(mut self) -> anyhow::Result<u64> {
        let mut met = 0;
        for machine in machines_of(&self.cuts) {
            met += met_by(&filter(self.names, machine, "-L INPUT -n -v -x")?);
            filter(self.names, machine, "-F INPUT")?;
        }
        self.cuts.clear();
        Ok(met)
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        for machine in machines_of(&self.cuts) {
            if let Err(error) = filter(self.names, machine, "-F INPUT") {
                say(&format!("{machine} is still cut off: {error:#}\n"));
            }
        }
    }
}

/// Where these cuts stand.
fn machines_of(cuts: &[Cut]) -> BTreeSet<Machine> {
    cuts.iter().map(|cut| cut.machine()).collect()
}

/// The packets that the rules of a listing met.
fn met_by(listing: &str) -> u64 {
    let rules = listing.lines().skip(2);
    let packets = rules.filter_map(|rule| rule.split_whitespace().next()?.parse::<u64>().ok());
    packets.sum()
}

/// The state of a connection that stands, in the words of the kernel.
const ESTABLISHED: &str = "01";

/// Whether a process is connected with a server, by its table of connections in `/proc`.
pub(super) fn is_connected(table: &str, server: Ipv4Addr, port: u16) -> bool {
    // As the kernel prints it: the address in the order of the machine, the port in that of people.
    let peer = format!("{:08X}:{port:04X}", u32::from_ne_bytes(server.octets()));
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(peer.as_str()) && fields.next() == Some(ESTABLISHED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: Machine = Machine::Worker(1);
    const LEADER: Machine = Machine::Coordinator(1);

    fn lines(cuts: &[Cut]) -> Vec<String> {
        let line = |cut: &Cut| format!("{}: {}", cut.machine(), cut.arguments());
        cuts.iter().map(line).collect()
    }

    #[test]
    fn a_cut_stands_where_it_would_be_heard() {
        assert_eq!(
            lines(&between(WORKER, LEADER)),
            [
                "c1: -A INPUT -s 10.231.0.21 -j DROP",
                "w1: -A INPUT -s 10.231.0.11 -j DROP",
            ]
        );
        assert_eq!(
            lines(&resets(WORKER, LEADER))[0],
            "c1: -A INPUT -s 10.231.0.21 -p tcp -j REJECT --reject-with tcp-reset"
        );
    }

    #[test]
    fn a_service_is_cut_at_its_port_alone() {
        assert_eq!(
            lines(&service(WORKER, 18_000)),
            [
                "hub: -A INPUT -s 10.231.0.21 -p tcp --dport 18000 -j DROP",
                "w1: -A INPUT -s 10.231.0.1 -p tcp --sport 18000 -j DROP",
            ]
        );
    }

    #[test]
    fn the_packets_of_all_rules_are_added_up() {
        let listing = "Chain INPUT (policy ACCEPT 0 packets, 0 bytes)\n    \
            pkts      bytes target     prot opt in     out     source               destination\n      \
            12      700 DROP       all  --  *      *       10.231.0.11          0.0.0.0/0\n       \
            3      180 DROP       all  --  *      *       10.231.0.12          0.0.0.0/0\n";
        assert_eq!(met_by(listing), 15);
        assert_eq!(met_by("Chain INPUT\n pkts\n"), 0);
    }

    #[test]
    fn a_connection_is_found_by_its_server_and_only_once_it_stands() {
        let line = |peer: &str, state: &str| {
            format!("  sl  local rem st\n   0: 1500E70A:C350 {peer} {state} 00000000:00000000\n")
        };
        let server = Ipv4Addr::new(10, 231, 0, 1);
        let peer = format!("{:08X}:4650", u32::from_ne_bytes(server.octets()));
        assert!(is_connected(&line(&peer, "01"), server, 18_000));
        assert!(!is_connected(&line(&peer, "02"), server, 18_000));
        assert!(!is_connected(&line(&peer, "01"), server, 18_001));
        assert!(!is_connected("", server, 18_000));
    }
}
