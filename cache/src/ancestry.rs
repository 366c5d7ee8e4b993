//! Steps stand on each other: who uses one uses those below it.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::digest::ChainId;
use crate::inventory::Item;

/// Where a step stands: the chain that it makes, the one below it, and its item.
pub(crate) struct Chain {
    pub(crate) own: ChainId,
    pub(crate) parent: ChainId,
    pub(crate) item: u32,
}

/// Who uses a step uses those below it, too, though within the hour it was not noted there. What was used last is gone down from
/// first, and no step is gone through again for an older use: of a stage of a thousand steps each is met once. Returns how many were met.
pub(crate) fn use_parents(items: &mut [Item], chains: &mut [Chain]) -> usize {
    chains.sort_unstable_by_key(|chain| Reverse(items[chain.item as usize].last_used_nanos));
    let by_own: HashMap<ChainId, u32> = chains.iter().enumerate().map(|(at, chain)| (chain.own, at as u32)).collect();
    let mut met = 0;
    for chain in &*chains {
        let last_used_nanos = items[chain.item as usize].last_used_nanos;
        let mut at = chain;
        while let Some(below) = by_own.get(&at.parent) {
            at = &chains[*below as usize];
            let below = &mut items[at.item as usize];
            met += 1;
            if below.last_used_nanos >= last_used_nanos {
                break;
            }
            below.last_used_nanos = last_used_nanos;
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ContentId;
    use crate::inventory::ItemKind;

    /// A stage whose steps were used one after the other, the lowest first, as a cold build does.
    fn stage(steps: u32) -> (Vec<Item>, Vec<Chain>) {
        let mut parent = ChainId::scratch();
        let step = |n: u32| {
            let own = parent.child(ContentId::from_bytes([n as u8; 32]));
            let chain = Chain { own, parent, item: n };
            parent = own;
            let mut item = Item::new(ItemKind::Layer, &n.to_string(), "".into(), 0);
            item.last_used_nanos = i64::from(n);
            (item, chain)
        };
        (0..steps).map(step).unzip()
    }

    #[test]
    fn all_below_a_step_are_as_used_as_it_and_each_is_met_once() {
        let (mut items, mut chains) = stage(1000);
        let met = use_parents(&mut items, &mut chains);
        assert!(items.iter().all(|item| item.last_used_nanos == 999));
        assert!(met < 2000, "{met} for a thousand steps");
    }
}
