//! Links.

use super::keys::LINK;
use super::read::Value;
use super::supervision::time;
use crate::control::{LinkRules, LinkSpec, Policy, RulesSpec, Selector, TargetSpec, Transport};

const POLICIES: [(&str, Policy); 4] = [
    ("block", Policy::Block),
    ("drop-newest", Policy::DropNewest),
    ("drop-oldest", Policy::DropOldest),
    ("latest", Policy::Latest),
];

const TRANSPORTS: [(&str, Transport); 4] = [
    ("auto", Transport::Auto),
    ("routed", Transport::Routed),
    ("direct", Transport::Direct),
    ("shm", Transport::Shm),
];

pub(super) fn link(value: Value<'_>) -> Option<LinkSpec> {
    let table = value.table(LINK)?;
    for (key, what) in [("type", "the type of its messages"), ("to", "who gets its messages")] {
        if table.get(key).is_none() {
            table.wrong(table.at, format!("a link has no `{key}`: {what}"));
        }
    }
    let from = table.read("from", |value| match value.text()? {
        text if text.is_empty() => {
            value.mend("an empty name", "leave `from` out for messages of anybody")
        }
        text => Some(Selector(text)),
    });
    let policy = table.read("policy", |value| value.choice(&POLICIES));
    let capacity = table.read("capacity", |value| value.number(1, LinkSpec::MAX_CAPACITY));
    let block_timeout = table.read("block-timeout", time);
    let history = table.read("history", |value| value.number(0, LinkSpec::MAX_HISTORY));
    let transport = table.read("transport", |value| value.choice(&TRANSPORTS));
    let spin_us = table.read("spin-us", |value| value.number(0, LinkSpec::MAX_SPIN_US));
    let type_name = table.read("type", |value| {
        let text = value.text()?;
        if (1..=LinkSpec::MAX_TYPE_NAME).contains(&text.len()) {
            Some(text)
        } else {
            value.wrong(format!("a type name has 1 to {} bytes", LinkSpec::MAX_TYPE_NAME))
        }
    });
    let to = table.read("to", |value| value.parsed::<TargetSpec>());
    let wishes = RulesSpec { policy, capacity, block_timeout, ..RulesSpec::default() };
    if let Err(why) = wishes.new_rules() {
        table.wrong(table.at("block-timeout"), why);
    }
    let wishes = RulesSpec { transport, spin_us, ..RulesSpec::default() };
    if let Err(why) = wishes.new_rules() {
        table.wrong(table.at("spin-us"), why);
    }
    let rules = LinkRules { history: history.unwrap_or_default(), ..LinkRules::default() };
    if let Err(why) = rules.check_target(matches!(to, Some(TargetSpec::Udp(_)))) {
        table.wrong(table.at("history"), why);
    }
    let (type_name, to) = (type_name?, to?);
    Some(LinkSpec {
        from,
        type_name,
        to,
        policy,
        capacity,
        block_timeout,
        history,
        transport,
        spin_us,
    })
}
