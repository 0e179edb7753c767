//! Pinning and disabling groups by command: what is written into etcd, and the sentences about it.

use super::commands::{DriverCommands, settled, unavailable};
use super::consequences;
use crate::api::{Accepted, CommandError, How, Place, PlaceChange};
use crate::core::group::Severity;
use crate::core::record::{GroupWish, StoredNote};
use crate::status::{GroupState, GroupStatus, ModeNote};
use baton_replicator::types::{GroupName, NodeName};

/// The note after a change, at `now` seconds since 1970. What is left out stays as it was; a repetition changes nothing.
fn note(before: Option<&StoredNote>, change: &PlaceChange, now: u64) -> StoredNote {
    StoredNote {
        owner: change.owner.clone().or(before.map(|n| n.owner.clone())).unwrap_or_else(|| change.by.clone()),
        reason: change.reason.clone().or(before.map(|n| n.reason.clone())).unwrap_or_default(),
        since: before.map_or(now, |n| n.since),
        until: None,
    }
}

/// The wish after `change`.
fn after(present: &GroupWish, change: &PlaceChange, now: u64) -> GroupWish {
    let mut wish = present.clone();
    match &change.what {
        Place::Pin(_) => wish.pinned = Some(note(present.pinned.as_ref(), change, now)),
        Place::Unpin => wish.pinned = None,
        Place::Disable => wish.disabled = Some(note(present.disabled.as_ref(), change, now)),
        Place::Enable => wish.disabled = None,
    }
    wish
}

/// Who and why, in brackets.
fn said(note: Option<&StoredNote>) -> String {
    note.map(|n| {
        let reason = if n.reason.is_empty() { String::new() } else { format!(": {}", n.reason) };
        format!(" ({}{reason})", n.owner)
    })
    .unwrap_or_default()
}

fn message(group: &GroupStatus, change: &PlaceChange, wish: &GroupWish) -> String {
    let name = &group.name;
    match &change.what {
        Place::Pin(Some(to)) if group.leader.as_ref() != Some(to) => {
            format!("{name} moves to {to} and is pinned{}", said(wish.pinned.as_ref()))
        }
        Place::Pin(_) => format!("{name} is pinned{}", said(wish.pinned.as_ref())),
        Place::Unpin => format!("{name} is not pinned"),
        Place::Disable => format!("{name} is disabled{}", said(wish.disabled.as_ref())),
        Place::Enable => format!("{name} is enabled"),
    }
}

/// Why a group that is asked to move to `target` is not pinned where it is, if so.
fn moves_first(group: &GroupStatus, what: &Place, pinned: bool, target: Option<&NodeName>) -> Option<String> {
    let target = target.filter(|t| group.leader.as_ref() != Some(t))?;
    let stays = match what {
        // A pin that is there already may get another reason.
        Place::Pin(None) => !pinned,
        Place::Pin(Some(to)) => group.leader.as_ref() == Some(to),
        Place::Unpin | Place::Disable | Place::Enable => false,
    };
    let name = &group.name;
    stays.then(|| {
        format!(
            "{name} is asked to move to {target}: take that move back first, or pin it with --to {target}"
        )
    })
}

/// Why a move by command is refused, if it is.
pub(super) fn unmovable(group: &GroupStatus) -> Option<String> {
    let name = &group.name;
    if group.disabled.is_some() {
        return Some(format!("{name} is disabled: 'baton group enable {name}' first"));
    }
    if let Some(lead) = &group.settings.with {
        return Some(format!("{name} goes with {lead}: 'baton move {lead}' moves both"));
    }
    let note = group.pinned.as_ref()?;
    let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
    Some(format!(
        "{name} is pinned ({}{reason}): 'baton group unpin {name}' first, or 'baton group pin {name} --to NODE'",
        note.owner
    ))
}

/// The groups that `group` goes with, nearest first.
fn leads<'g>(group: &'g GroupName, all: &'g [GroupStatus]) -> impl Iterator<Item = &'g GroupName> {
    let next = |name: &&'g GroupName| all.iter().find(|g| g.name == **name)?.settings.with.as_ref();
    // A specification has no circles; one that had would end here all the same.
    std::iter::successors(Some(group), next).skip(1).take(all.len())
}

/// Notes in each group whether one that it goes with is disabled.
pub(super) fn rest_with_others(groups: &mut [GroupStatus]) {
    let all = &*groups;
    let disabled = |name: &&GroupName| all.iter().any(|g| g.name == **name && g.disabled.is_some());
    let rest: Vec<Option<GroupName>> =
        all.iter().map(|g| leads(&g.name, all).find(disabled).cloned()).collect();
    for (group, with) in groups.iter_mut().zip(rest) {
        group.rests_with = with;
    }
}

/// The groups that go with this one, directly or through others.
pub(super) fn followers<'g>(
    group: &'g GroupName,
    all: &'g [GroupStatus],
) -> impl Iterator<Item = &'g GroupName> {
    all.iter().map(|g| &g.name).filter(move |name| leads(name, all).any(|lead| lead == group))
}

/// `, and what goes with it: app, mail`, for the end of a sentence about a group; empty for one that nothing goes with.
fn company(group: &GroupName, all: &[GroupStatus]) -> String {
    let names: Vec<&str> = followers(group, all).map(GroupName::as_str).collect();
    if names.is_empty() { String::new() } else { format!(", and what goes with it: {}", names.join(", ")) }
}

/// What to do about groups that do not run because somebody wanted so; `all` are the groups there are.
pub(super) fn advice(group: &GroupStatus, all: &[GroupStatus]) -> Option<String> {
    let note = group.disabled.as_ref()?;
    let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
    let name = &group.name;
    Some(format!(
        "group {name} is disabled since {} ({}{reason}): 'baton group enable {name}' starts it{}",
        note.since,
        note.owner,
        company(name, all)
    ))
}

impl DriverCommands {
    pub(super) async fn ask_to_place(
        &self,
        group: GroupName,
        change: PlaceChange,
        how: How,
    ) -> Result<Accepted, CommandError> {
        let known = self.group(&group)?;
        let (present, version) = self.etcd.group_wish(&group).await.map_err(|e| unavailable(&e))?;
        let now = crate::status::unix_seconds(std::time::SystemTime::now());
        let wish = after(&present, &change, now);
        let to: Option<NodeName> = match &change.what {
            Place::Pin(to) => to.clone().filter(|to| known.leader.as_ref() != Some(to)),
            Place::Unpin | Place::Disable | Place::Enable => None,
        };
        if let (Place::Pin(_), Some(lead)) = (&change.what, &known.settings.with) {
            return Err(CommandError::Refused(format!("{group} goes with {lead}: pin {lead}")));
        }
        if matches!(change.what, Place::Pin(_)) {
            let (target, _) = self.etcd.target(&group).await.map_err(|e| unavailable(&e))?;
            let pinned = present.pinned.is_some();
            if let Some(why) = moves_first(&known, &change.what, pinned, target.as_ref()) {
                return Err(CommandError::Refused(why));
            }
        }
        if let Some(to) = &to {
            self.known_node(to)?;
            if present.disabled.is_some() {
                return Err(CommandError::Refused(format!("{group} is disabled and moves nowhere")));
            }
            super::commands::successor(&known, Some(to.clone()))?;
        }
        let message = message(&known, &change, &wish);
        let mut consequences = consequences::of_place(&known, &change.what, to.as_ref());
        consequences.extend(consequences::of_company(&known, &change.what, &self.status.borrow().groups));
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        let repeated = present == wish && to.as_ref().is_none_or(|to| known.target.as_ref() == Some(to));
        if how.dry_run || repeated {
            return Ok(accepted);
        }
        let what = format!("the placement of {group}");
        settled(&self.etcd.put_group_wish_if(&group, &wish, to.as_ref(), version).await, &what)?;
        let severity = match (&change.what, known.state) {
            (Place::Disable, GroupState::Serving) => Severity::Warning,
            _ => Severity::Info,
        };
        self.history.record(Some(&group), severity, &format!("asked for: {}", accepted.message));
        let noted = |note: &Option<StoredNote>| note.as_ref().map(|note| ModeNote::of(note, now));
        let (pinned, disabled) = (noted(&wish.pinned), noted(&wish.disabled));
        self.shown_of(&group, |g| g.pinned == pinned && g.disabled == disabled).await;
        Ok(accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn change(what: Place, reason: Option<&str>) -> PlaceChange {
        PlaceChange { what, by: "root".into(), owner: None, reason: reason.map(Into::into) }
    }

    #[test]
    fn a_repetition_changes_nothing_and_a_reason_may_follow() {
        let pinned = after(&GroupWish::default(), &change(Place::Pin(None), None), 100);
        assert_eq!(after(&pinned, &change(Place::Pin(None), None), 200), pinned);
        let because = after(&pinned, &change(Place::Pin(None), Some("audit")), 300);
        let note = because.pinned.as_ref().expect("a note");
        assert_eq!((note.owner.as_str(), note.reason.as_str(), note.since), ("root", "audit", 100));
        let both = after(&because, &change(Place::Disable, None), 400);
        assert!(both.pinned.is_some() && both.disabled.is_some(), "one does not undo the other");
        assert_eq!(after(&both, &change(Place::Enable, None), 500), because);
        assert_eq!(after(&because, &change(Place::Unpin, None), 500), GroupWish::default());
    }

    #[test]
    fn a_group_that_is_asked_to_move_is_not_pinned_where_it_is() {
        let web = fixture::healthy().groups.remove(0);
        let leader = web.leader.clone().expect("led");
        let other = NodeName::new("elsewhere").expect("name");
        let refused = |what, pinned, target: &NodeName| moves_first(&web, &what, pinned, Some(target));
        assert!(refused(Place::Pin(None), false, &other).expect("refused").contains("--to elsewhere"));
        assert!(refused(Place::Pin(Some(leader.clone())), true, &other).is_some());
        assert_eq!(refused(Place::Pin(Some(other.clone())), false, &other), None);
        assert_eq!(refused(Place::Pin(None), true, &other), None, "another reason for the pin that is there");
        assert_eq!(refused(Place::Pin(None), false, &leader), None, "it is tried again where it is");
        assert_eq!(moves_first(&web, &Place::Pin(None), false, None), None);
    }

    #[test]
    fn what_is_pinned_or_disabled_is_not_moved_and_says_who_wants_that() {
        let mut web = fixture::healthy().groups.remove(0);
        assert_eq!((unmovable(&web), advice(&web, &[])), (None, None));
        let note = ModeNote {
            owner: "ada".into(),
            reason: "audit".into(),
            since: "2026-11-21T02:50:00Z".into(),
            until: None,
            expired: false,
        };
        web.pinned = Some(note.clone());
        assert!(unmovable(&web).expect("refused").contains("pinned (ada: audit)"));
        assert_eq!(advice(&web, &[]), None, "a pin is no trouble");
        web.disabled = Some(note);
        assert!(unmovable(&web).expect("refused").contains("baton group enable web"));
        assert!(advice(&web, &[]).expect("advice").contains("since 2026-11-21T02:50:00Z (ada: audit)"));
    }

    #[test]
    fn what_goes_with_a_disabled_group_rests_with_it() {
        let web = crate::cli::fixture::healthy().groups.remove(0);
        let after = |name: &str, lead: &str| {
            let mut group = web.clone();
            group.name = GroupName::new(name).expect("a name");
            group.settings.with = Some(GroupName::new(lead).expect("a name"));
            group.leader = None;
            group
        };
        let mut all = [after("mail", "app"), after("app", "web"), after("other", "gone"), web];
        rest_with_others(&mut all);
        assert!(all.iter().all(|g| g.rests_with.is_none() && !g.rests()), "nothing is disabled");
        all[3].disabled = Some(ModeNote::default());
        rest_with_others(&mut all);
        let with: Vec<Option<&str>> =
            all.iter().map(|g| g.rests_with.as_ref().map(GroupName::as_str)).collect();
        assert_eq!(with, [Some("web"), Some("web"), None, None]);
        assert!(all[0].rests() && !all[2].rests() && !all[3].rests(), "that one still runs");
        let said = advice(&all[3], &all).expect("advice");
        assert!(said.ends_with("starts it, and what goes with it: mail, app"), "{said}");
        // A circle ends, too.
        all[3].settings.with = Some(all[0].name.clone());
        rest_with_others(&mut all);
        assert_eq!(followers(&all[3].name, &all).count(), 3);
    }
}
