//! The machines of a run: what they are called, where they are, and the commands that make them. Does nothing by itself.
//!
//! A machine is a network namespace. All of them hang on one bridge, which is in the namespace of the hub: no interface of this
//! host changes. The rule: every name carries the number of the process that made it, so that whoever finds it later knows whether
//! somebody needs it still.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Where a coordinator takes workers.
pub(super) const CONTROL_PORT: u16 = 6_123;
/// Where a worker takes records from other workers.
pub(super) const DATA_PORT: u16 = 6_124;
/// Where namespaces with a name are found.
pub(super) const NAMESPACES: &str = "/run/netns";

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Machine {
    /// Kafka, the S3 server, the blocklist and this program are here.
    Hub,
    /// A coordinator, counted from 1.
    Coordinator(u8),
    /// A worker, counted from 1.
    Worker(u8),
}

impl Machine {
    /// Its address.
    pub(super) const fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::Hub => 1,
            Self::Coordinator(number) => 10 + number,
            Self::Worker(number) => 20 + number,
        };
        Ipv4Addr::new(10, 231, 0, last)
    }

    /// The coordinator that takes workers at `address`, such as `10.231.0.11:6123`.
    pub(super) fn coordinator_at(address: &str) -> Option<Self> {
        let host: Ipv4Addr = address.split(':').next()?.parse().ok()?;
        let mut all = (1..10).map(Self::Coordinator);
        all.find(|one| one.address() == host)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            text.parse::<u8>()
                .ok()
                .filter(|number| (1..10).contains(number))
        };
        match (text, text.split_at_checked(1)?) {
            ("hub", _) => Some(Self::Hub),
            (_, ("c", rest)) => number(rest).map(Self::Coordinator),
            (_, ("w", rest)) => number(rest).map(Self::Worker),
            _ => None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub => f.write_str("hub"),
            Self::Coordinator(number) => write!(f, "c{number}"),
            Self::Worker(number) => write!(f, "w{number}"),
        }
    }
}

/// The names of what one process makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The process.
    pub(super) process: u32,
}

impl Names {
    /// The namespace of a machine.
    pub(super) fn namespace(self, machine: Machine) -> String {
        format!("hw-{}-{machine}", self.process)
    }

    /// The file by which the namespace of a machine is entered.
    pub(super) fn path(self, machine: Machine) -> PathBuf {
        Path::new(NAMESPACES).join(self.namespace(machine))
    }

    /// The control group of a machine's process.
    pub(super) fn group(self, machine: Machine) -> String {
        self.namespace(machine)
    }

    /// Whose namespace that is: the names of the process that made it, and the machine.
    pub(super) fn of_namespace(name: &str) -> Option<(Self, Machine)> {
        let (process, machine) = name.strip_prefix("hw-")?.split_once('-')?;
        let process = process.parse().ok()?;
        Some((Self { process }, Machine::parse(machine)?))
    }

    fn bridge(self) -> String {
        format!("hw{}b", self.process)
    }

    /// The end of a machine's cable at the bridge.
    fn near(self, machine: Machine) -> String {
        format!("hw{}{machine}", self.process)
    }

    /// Its end at the machine.
    fn far(self, machine: Machine) -> String {
        format!("hw{}{machine}n", self.process)
    }

    /// The arguments of `ip` that make the hub.
    pub(super) fn hub(self) -> Vec<String> {
        let (hub, bridge) = (self.namespace(Machine::Hub), self.bridge());
        let address = Machine::Hub.address();
        vec![
            format!("netns add {hub}"),
            format!("-n {hub} link set lo up"),
            format!("-n {hub} link add {bridge} type bridge"),
            format!("-n {hub} addr add {address}/24 dev {bridge}"),
            format!("-n {hub} link set {bridge} up"),
        ]
    }

    /// The arguments of `ip` that take the cable of a machine away, both ends of it.
    pub(super) fn unplug(self, machine: Machine) -> String {
        let (hub, near) = (self.namespace(Machine::Hub), self.near(machine));
        format!("-n {hub} link del {near}")
    }

    /// The arguments of `ip` that make another machine, with its cable to the hub.
    pub(super) fn machine(self, machine: Machine) -> Vec<String> {
        let (hub, namespace) = (self.namespace(Machine::Hub), self.namespace(machine));
        let (near, far) = (self.near(machine), self.far(machine));
        let (bridge, address) = (self.bridge(), machine.address());
        vec![
            format!("netns add {namespace}"),
            format!("-n {hub} link add {near} type veth peer name {far} netns {namespace}"),
            format!("-n {hub} link set {near} master {bridge}"),
            format!("-n {hub} link set {near} up"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} addr add {address}/24 dev {far}"),
            format!("-n {namespace} link set {far} up"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest number that a process may have.
    const NAMES: Names = Names { process: 4_194_304 };
    const ALL: [Machine; 7] = [
        Machine::Hub,
        Machine::Coordinator(1),
        Machine::Coordinator(2),
        Machine::Coordinator(3),
        Machine::Worker(1),
        Machine::Worker(2),
        Machine::Worker(3),
    ];

    #[test]
    fn machines_have_addresses_of_their_own_in_one_network() {
        let mut addresses: Vec<_> = ALL.into_iter().map(Machine::address).collect();
        assert!(
            addresses
                .iter()
                .all(|one| one.octets()[..3] == [10, 231, 0])
        );
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), ALL.len());
    }

    #[test]
    fn a_namespace_tells_whose_it_is_and_other_names_are_left_alone() {
        for machine in ALL {
            let name = NAMES.namespace(machine);
            assert_eq!(Names::of_namespace(&name), Some((NAMES, machine)), "{name}");
        }
        for other in [
            "hw-7", "hw-7-x1", "hw-7-c0", "hw-7-c12", "hw-x-c1", "kube", "",
        ] {
            assert_eq!(Names::of_namespace(other), None, "{other}");
        }
    }

    #[test]
    fn names_of_interfaces_are_as_short_as_the_kernel_wants_them() {
        let names = ALL.map(|machine| [NAMES.near(machine), NAMES.far(machine)]);
        let names = names.into_iter().flatten().chain([NAMES.bridge()]);
        for name in names {
            assert!(name.len() <= 15 && name.contains("4194304"), "{name}");
        }
    }

    #[test]
    fn every_command_stays_within_namespaces_of_this_process() {
        let machines = ALL[1..].iter().flat_map(|machine| NAMES.machine(*machine));
        let gone = ALL[1..].iter().map(|machine| NAMES.unplug(*machine));
        for line in NAMES.hub().into_iter().chain(machines).chain(gone) {
            let within = ["-n hw-4194304-", "netns add hw-4194304-"];
            assert!(within.iter().any(|start| line.starts_with(start)), "{line}");
        }
    }

    #[test]
    fn a_coordinator_is_known_by_where_it_takes_workers() {
        let second = Machine::Coordinator(2);
        let address = format!("{}:{CONTROL_PORT}", second.address());
        assert_eq!(Machine::coordinator_at(&address), Some(second));
        assert_eq!(Machine::coordinator_at("10.231.0.21:6123"), None);
        assert_eq!(Machine::coordinator_at("nobody"), None);
    }
}
