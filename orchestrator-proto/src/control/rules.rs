//! The rules of a link: what it does with its messages when there is no room, and how much room
//! there is; and which way they go.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::spec::{LinkSpec, Policy, TargetSpec};
use super::transport::Transport;
use crate::Millis;

/// The rules of a link that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkRules {
    /// What happens when there is no room.
    pub policy: Policy,
    /// Messages that may wait, 1 to [`LinkSpec::MAX_CAPACITY`]; 1 under [`Policy::Latest`].
    pub capacity: u32,
    /// How long a sender is held back under [`Policy::Block`]; 0 is without end.
    pub block_timeout: Millis,
    /// How many of the last messages a receiver gets that comes later, 0 to
    /// [`LinkSpec::MAX_HISTORY`].
    pub history: u32,
    /// Which way its messages are to go.
    pub transport: Transport,
    /// For how many microseconds an end that waits keeps a processor busy before it sleeps, with
    /// [`Transport::Shm`]; 0 is not at all.
    pub spin_us: u32,
}

impl Default for LinkRules {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            capacity: LinkSpec::DEFAULT_CAPACITY,
            block_timeout: Millis::ZERO,
            history: 0,
            transport: Transport::default(),
            spin_us: 0,
        }
    }
}

/// As in `policy block, capacity 64`: what is as it is by default may be left out, but for these two.
impl fmt::Display for LinkRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}, capacity {}", self.policy, self.capacity)?;
        if self.block_timeout > Millis::ZERO {
            write!(f, ", block-timeout {}", self.block_timeout)?;
        }
        if self.history > 0 {
            write!(f, ", history {}", self.history)?;
        }
        if self.transport != Transport::default() {
            write!(f, ", transport {}", self.transport)?;
        }
        if self.spin_us > 0 {
            write!(f, ", spin-us {}", self.spin_us)?;
        }
        Ok(())
    }
}

/// What somebody says of the rules of a link. What is not said is as it is by default, or, of a
/// link that is there, as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RulesSpec {
    /// What happens when there is no room.
    pub policy: Option<Policy>,
    /// Messages that may wait, 1 to [`LinkSpec::MAX_CAPACITY`].
    pub capacity: Option<u32>,
    /// How long a sender is held back under [`Policy::Block`], at most
    /// [`LinkSpec::MAX_BLOCK_TIMEOUT`]; 0 is without end.
    pub block_timeout: Option<Millis>,
    /// How many of the last messages a receiver gets that comes later, 0 to
    /// [`LinkSpec::MAX_HISTORY`].
    pub history: Option<u32>,
    /// Which way its messages are to go.
    pub transport: Option<Transport>,
    /// For how many microseconds an end that waits keeps a processor busy before it sleeps, with
    /// [`Transport::Shm`]; at most [`LinkSpec::MAX_SPIN_US`].
    pub spin_us: Option<u32>,
}

impl RulesSpec {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The rules of a new link.
    ///
    /// # Errors
    ///
    /// What is not allowed, as a sentence.
    pub fn new_rules(&self) -> Result<LinkRules, String> {
        self.over(LinkRules::default())
    }

    /// The rules of a link that has had these until now.
    ///
    /// # Errors
    ///
    /// What is not allowed, as a sentence.
    pub fn over(&self, before: LinkRules) -> Result<LinkRules, String> {
        if let Some(capacity) = self.capacity
            && !(1..=LinkSpec::MAX_CAPACITY).contains(&capacity)
        {
            let most = LinkSpec::MAX_CAPACITY;
            return Err(format!("a capacity of {capacity}; it must be 1 to {most}"));
        }
        let policy = self.policy.unwrap_or(before.policy);
        let capacity = match (policy, before.policy) {
            // The newest is one.
            (Policy::Latest, _) => 1,
            (_, Policy::Latest) => self.capacity.unwrap_or(LinkSpec::DEFAULT_CAPACITY),
            _ => self.capacity.unwrap_or(before.capacity),
        };
        let block_timeout = match (self.block_timeout, policy) {
            (Some(time), _) if time > LinkSpec::MAX_BLOCK_TIMEOUT => {
                let most = LinkSpec::MAX_BLOCK_TIMEOUT;
                return Err(format!("a block-timeout of {time}; it may be up to {most}"));
            }
            (Some(time), Policy::Block) => time,
            (Some(time), policy) if time > Millis::ZERO => {
                return Err(format!(
                    "a block-timeout is for the policy block, and the policy is {policy}"
                ));
            }
            (None, Policy::Block) => before.block_timeout,
            (_, _) => Millis::ZERO,
        };
        let history = self.history.unwrap_or(before.history);
        if history > LinkSpec::MAX_HISTORY {
            let most = LinkSpec::MAX_HISTORY;
            return Err(format!("a history of {history}; it may be up to {most}"));
        }
        let transport = self.transport.unwrap_or(before.transport);
        let spin_us = match (self.spin_us, transport) {
            (Some(spin), _) if spin > LinkSpec::MAX_SPIN_US => {
                let most = LinkSpec::MAX_SPIN_US;
                return Err(format!("a spin-us of {spin}; it may be up to {most}"));
            }
            (Some(spin), Transport::Shm) => spin,
            (Some(1..), transport) => {
                return Err(format!(
                    "a spin-us is for the transport shm, and the transport is {transport}"
                ));
            }
            (None, Transport::Shm) => before.spin_us,
            (_, _) => 0,
        };
        Ok(LinkRules { policy, capacity, block_timeout, history, transport, spin_us })
    }
}

impl LinkRules {
    /// What has to be said for a new link to have these: nothing of what is so by default.
    #[must_use]
    pub fn wishes(&self) -> RulesSpec {
        let default = Self::default();
        let counts = self.policy != Policy::Latest && self.capacity != default.capacity;
        RulesSpec {
            policy: Some(self.policy).filter(|it| *it != default.policy),
            capacity: Some(self.capacity).filter(|_| counts),
            block_timeout: Some(self.block_timeout).filter(|it| *it != default.block_timeout),
            history: Some(self.history).filter(|it| *it != default.history),
            transport: Some(self.transport).filter(|it| *it != default.transport),
            spin_us: Some(self.spin_us).filter(|it| *it != default.spin_us),
        }
    }
}

impl LinkRules {
    /// Whether they are allowed for a link to a datagram socket, if that is its target.
    ///
    /// # Errors
    ///
    /// What is not allowed, as a sentence.
    pub fn check_target(&self, is_udp: bool) -> Result<(), String> {
        if is_udp && self.history > 0 {
            return Err("a history is for who comes later, and nobody comes to a datagram \
                        socket; leave it out"
                .to_owned());
        }
        Ok(())
    }
}

impl LinkSpec {
    /// What it says of its rules.
    #[must_use]
    pub fn wishes(&self) -> RulesSpec {
        let Self { policy, capacity, block_timeout, history, transport, spin_us, .. } = *self;
        RulesSpec { policy, capacity, block_timeout, history, transport, spin_us }
    }

    /// The rules of this link, if it is a new one.
    ///
    /// # Errors
    ///
    /// What is not allowed, as a sentence.
    pub fn rules(&self) -> Result<LinkRules, String> {
        let rules = self.wishes().new_rules()?;
        rules.check_target(matches!(self.to, TargetSpec::Udp(_)))?;
        Ok(rules)
    }

    /// The same ends with these rules.
    #[must_use]
    pub fn with_rules(self, rules: LinkRules) -> Self {
        let RulesSpec { policy, capacity, block_timeout, history, transport, spin_us } =
            rules.wishes();
        Self { policy, capacity, block_timeout, history, transport, spin_us, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policies() -> impl Strategy<Value = Policy> {
        let all = [Policy::Block, Policy::DropNewest, Policy::DropOldest, Policy::Latest];
        prop::sample::select(all.to_vec())
    }

    fn wishes() -> impl Strategy<Value = RulesSpec> {
        let times = prop::option::of((0..=LinkSpec::MAX_BLOCK_TIMEOUT.0).prop_map(Millis));
        let capacities = prop::option::of(1..=LinkSpec::MAX_CAPACITY);
        let histories = prop::option::of(0..=LinkSpec::MAX_HISTORY);
        let transports = prop::sample::select(vec![
            None,
            Some(Transport::Auto),
            Some(Transport::Routed),
            Some(Transport::Direct),
            Some(Transport::Shm),
        ]);
        let spins = prop::option::of(0..=LinkSpec::MAX_SPIN_US);
        (prop::option::of(policies()), capacities, times, histories, transports, spins).prop_map(
            |(policy, capacity, block_timeout, history, transport, spin_us)| RulesSpec {
                policy,
                capacity,
                block_timeout,
                history,
                transport,
                spin_us,
            },
        )
    }

    proptest! {
        #[test]
        fn what_has_to_be_said_says_it(wished in wishes()) {
            if let Ok(rules) = wished.new_rules() {
                prop_assert_eq!(rules.wishes().new_rules(), Ok(rules));
                // What is so already changes nothing.
                prop_assert_eq!(RulesSpec::default().over(rules), Ok(rules));
                prop_assert_eq!(rules.wishes().over(rules), Ok(rules));
            }
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for capacity in [0, LinkSpec::MAX_CAPACITY + 1] {
            let said = RulesSpec { capacity: Some(capacity), ..RulesSpec::default() };
            assert!(said.new_rules().unwrap_err().contains("1 to 1048576"));
        }
        let said = RulesSpec { history: Some(LinkSpec::MAX_HISTORY + 1), ..RulesSpec::default() };
        assert!(said.new_rules().unwrap_err().contains("up to 65536"));
        let known = LinkRules { history: 3, ..LinkRules::default() };
        assert!(known.check_target(true).unwrap_err().contains("datagram"));
        assert_eq!(known.check_target(false), Ok(()));
    }

    #[test]
    fn a_timeout_is_for_block_and_goes_with_it() {
        let said = |policy, time: Option<u64>| RulesSpec {
            policy,
            block_timeout: time.map(Millis),
            ..RulesSpec::default()
        };
        assert!(said(None, Some(500)).new_rules().unwrap_err().contains("drop-oldest"));
        assert!(said(Some(Policy::Block), Some(u64::MAX)).new_rules().is_err());
        let block = said(Some(Policy::Block), Some(500)).new_rules().unwrap();
        assert_eq!(block.to_string(), "policy block, capacity 1024, block-timeout 500ms");
        let after = |said: RulesSpec| said.over(block).unwrap().block_timeout.0;
        assert_eq!(after(said(None, None)), 500);
        assert_eq!(after(said(None, Some(0))), 0);
        assert_eq!(after(said(Some(Policy::Latest), None)), 0);
        assert_eq!(after(said(Some(Policy::Latest), Some(0))), 0);
    }

    #[test]
    fn a_spin_is_for_shm_and_goes_with_it() {
        let said = |transport, spin_us| RulesSpec { transport, spin_us, ..RulesSpec::default() };
        let most = LinkSpec::MAX_SPIN_US;
        assert!(said(None, Some(50)).new_rules().unwrap_err().contains("the transport is auto"));
        let much = said(Some(Transport::Shm), Some(most + 1));
        assert!(much.new_rules().unwrap_err().contains("up to 10000"));
        let shm = said(Some(Transport::Shm), Some(50)).new_rules().unwrap();
        let words = "policy drop-oldest, capacity 1024, transport shm, spin-us 50";
        assert_eq!(shm.to_string(), words);
        let after = |said: RulesSpec| said.over(shm).unwrap().spin_us;
        assert_eq!(after(said(None, None)), 50);
        assert_eq!(after(said(None, Some(0))), 0);
        assert_eq!(after(said(Some(Transport::Direct), None)), 0);
        assert_eq!(after(said(Some(Transport::Direct), Some(0))), 0);
    }

    #[test]
    fn whoever_wants_more_than_the_newest_gets_as_many_as_without_a_wish() {
        let latest =
            RulesSpec { policy: Some(Policy::Latest), capacity: Some(50), ..RulesSpec::default() };
        let latest = latest.new_rules().unwrap();
        assert_eq!(latest.capacity, 1);
        let block = RulesSpec { policy: Some(Policy::Block), ..RulesSpec::default() };
        assert_eq!(block.over(latest).unwrap().capacity, LinkSpec::DEFAULT_CAPACITY);
    }

    #[test]
    fn a_transport_is_told_where_it_is_not_auto_and_stays_until_another_is_said() {
        let say = |transport| RulesSpec { transport: Some(transport), ..RulesSpec::default() };
        let direct = say(Transport::Direct).new_rules().unwrap();
        assert_eq!(direct.to_string(), "policy drop-oldest, capacity 1024, transport direct");
        let block = RulesSpec { policy: Some(Policy::Block), ..RulesSpec::default() };
        assert_eq!(block.over(direct).unwrap().transport, Transport::Direct);
        let auto = say(Transport::Auto).over(direct).unwrap();
        assert_eq!(auto, LinkRules::default());
        assert!(auto.wishes().is_nothing() && !auto.to_string().contains("transport"));
    }
}
