//! The live view's state: the newest picture, what is selected, which dialog is open. Pure: facts and keys in,
//! effects out; the time is an argument.

use super::feed::Update;
use crate::cli::status_page::group_health;
use crate::status::{ClusterStatus, Event, GroupStatus, Health, NodeMode, NodeStatus, Takeover};
use baton_replicator::types::{GroupName, NodeName};
use std::collections::BTreeMap;
use std::time::Instant;

/// A key, whatever the terminal sends for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Interrupt,
}

/// A command to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Move { group: GroupName, to: NodeName },
    Mode { node: NodeName, mode: NodeMode },
}

/// What a key led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    Do(Action),
}

/// What can be selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Node(NodeName),
    Group(GroupName),
}

/// What is on top of the overview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialog {
    /// Everything about the selected item, scrolled by so many lines.
    Details {
        item: Item,
        scroll: u16,
    },
    /// Where to? One of several nodes.
    Choose {
        group: GroupName,
        nodes: Vec<NodeName>,
        at: usize,
    },
    /// A command with its consequences, to be confirmed.
    Confirm {
        action: Action,
        consequences: Vec<String>,
    },
    Help,
}

/// The picture and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub status: ClusterStatus,
    pub from: String,
    pub live: bool,
    pub received: Instant,
}

/// Everything the view draws.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub started: Instant,
    pub picture: Option<Picture>,
    /// The agent is lost; why, until another one answers.
    pub trouble: Option<String>,
    /// Said once after another agent took over telling: one sentence.
    pub note: Option<String>,
    pub events: Vec<Event>,
    pub others: BTreeMap<NodeName, ClusterStatus>,
    pub selected: usize,
    pub dialog: Option<Dialog>,
}

impl Model {
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            picture: None,
            trouble: None,
            note: None,
            events: Vec::new(),
            others: BTreeMap::new(),
            selected: 0,
            dialog: None,
        }
    }

    /// Takes a fact in.
    pub fn apply(&mut self, update: Update, now: Instant) {
        match update {
            Update::Status { status, from, live } => {
                let before = self.picture.as_ref().map(|p| p.from.clone());
                if let (Some(why), Some(before)) = (self.trouble.take(), before)
                    && before != from
                {
                    self.note = Some(format!("Lost {why}. Now seen by {}.", status.node));
                }
                // The selection is a place in the list; it stays with its item when the list changes.
                let selected = self.item();
                self.picture = Some(Picture { status: *status, from, live, received: now });
                let items = self.items();
                self.selected = selected
                    .and_then(|item| items.iter().position(|i| *i == item))
                    .unwrap_or(self.selected.min(items.len().saturating_sub(1)));
            }
            Update::Trouble(why) => self.trouble = Some(why),
            Update::Events(events) => self.events = events,
            Update::Others(others) => self.others = others,
            Update::Done(text) => self.note = Some(text),
        }
    }

    pub fn status(&self) -> Option<&ClusterStatus> {
        self.picture.as_ref().map(|p| &p.status)
    }

    /// Nodes, then groups: the order of the selection.
    pub fn items(&self) -> Vec<Item> {
        let Some(status) = self.status() else { return Vec::new() };
        let nodes = status.nodes.iter().map(|n| Item::Node(n.name.clone()));
        nodes.chain(status.groups.iter().map(|g| Item::Group(g.name.clone()))).collect()
    }

    pub fn item(&self) -> Option<Item> {
        self.items().into_iter().nth(self.selected)
    }

    pub fn group(&self, name: &GroupName) -> Option<&GroupStatus> {
        self.status()?.groups.iter().find(|g| g.name == *name)
    }

    pub fn node(&self, name: &NodeName) -> Option<&NodeStatus> {
        self.status()?.nodes.iter().find(|n| n.name == *name)
    }

    /// The change of leadership under way, as told by the node that carries it out.
    pub fn under_way(&self, group: &GroupName) -> Option<&Takeover> {
        self.status()
            .into_iter()
            .chain(self.others.values())
            .flat_map(|s| &s.groups)
            .filter(|g| g.name == *group)
            .find_map(|g| g.under_way.as_ref())
    }

    /// A key was pressed.
    pub fn on_key(&mut self, key: Key) -> Effect {
        if key == Key::Interrupt {
            return Effect::Quit;
        }
        match self.dialog.take() {
            None => self.on_overview(key),
            Some(dialog) => self.on_dialog(dialog, key),
        }
    }

    fn on_overview(&mut self, key: Key) -> Effect {
        let last = self.items().len().saturating_sub(1);
        match key {
            Key::Char('q') | Key::Escape => return Effect::Quit,
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => self.selected = (self.selected + 1).min(last),
            Key::PageUp => self.selected = self.selected.saturating_sub(10),
            Key::PageDown => self.selected = (self.selected + 10).min(last),
            Key::Home => self.selected = 0,
            Key::End => self.selected = last,
            Key::Enter => self.dialog = self.item().map(|item| Dialog::Details { item, scroll: 0 }),
            Key::Char('?' | 'h') => self.dialog = Some(Dialog::Help),
            Key::Char('m') => self.ask_move(),
            Key::Char('s') => self.ask_mode(),
            Key::Char(_) | Key::Interrupt => {}
        }
        self.note = self.note.take().filter(|_| matches!(key, Key::Char('m' | 's')));
        Effect::None
    }

    fn on_dialog(&mut self, dialog: Dialog, key: Key) -> Effect {
        self.dialog = match (dialog, key) {
            (Dialog::Details { item, scroll }, key) => {
                let to = match key {
                    Key::Up | Key::Char('k') => Some(scroll.saturating_sub(1)),
                    Key::Down | Key::Char('j') => Some(scroll.saturating_add(1)),
                    Key::PageUp => Some(scroll.saturating_sub(10)),
                    Key::PageDown | Key::Char(' ') => Some(scroll.saturating_add(10)),
                    Key::Home => Some(0),
                    Key::Escape | Key::Enter | Key::Char('q') => None,
                    _ => Some(scroll),
                };
                to.map(|scroll| Dialog::Details { item, scroll })
            }
            (Dialog::Choose { group, nodes, at }, key) => match key {
                Key::Escape | Key::Char('q') => None,
                Key::Up | Key::Char('k') => Some(Dialog::Choose { group, nodes, at: at.saturating_sub(1) }),
                Key::Down | Key::Char('j') => {
                    let at = (at + 1).min(nodes.len().saturating_sub(1));
                    Some(Dialog::Choose { group, nodes, at })
                }
                Key::Enter => match nodes.get(at) {
                    Some(to) => self.confirm(Action::Move { group, to: to.clone() }),
                    None => None,
                },
                _ => Some(Dialog::Choose { group, nodes, at }),
            },
            (Dialog::Confirm { action, .. }, Key::Char('y')) => return Effect::Do(action),
            // Only a deliberate y confirms: an Enter too many must not move a service.
            (dialog @ Dialog::Confirm { .. }, key) => match key {
                Key::Char('n' | 'q') | Key::Escape => None,
                _ => Some(dialog),
            },
            (Dialog::Help, _) => None,
        };
        Effect::None
    }

    fn ask_move(&mut self) {
        let Some(Item::Group(name)) = self.item() else {
            self.note = Some("Select a group first: m moves a group.".into());
            return;
        };
        let Some(group) = self.group(&name) else { return };
        let others: Vec<NodeName> = group
            .nodes
            .iter()
            .filter(|part| Some(&part.node) != group.leader.as_ref())
            .map(|part| part.node.clone())
            .collect();
        self.dialog = match others.as_slice() {
            [] => None,
            [one] => self.confirm(Action::Move { group: name, to: one.clone() }),
            // Those that could take over come first.
            _ => {
                let mut nodes = others;
                nodes.sort_by_key(|node| !group.nodes.iter().any(|p| p.node == *node && p.ready));
                Some(Dialog::Choose { group: name, nodes, at: 0 })
            }
        };
    }

    fn ask_mode(&mut self) {
        let Some(Item::Node(name)) = self.item() else {
            self.note = Some("Select a node first: s puts a node into standby, or back online.".into());
            return;
        };
        let Some(node) = self.node(&name) else { return };
        let mode = if node.mode == NodeMode::Online { NodeMode::Standby } else { NodeMode::Online };
        self.dialog = self.confirm(Action::Mode { node: name, mode });
    }

    fn confirm(&self, action: Action) -> Option<Dialog> {
        let consequences = consequences(self.status()?, &action);
        Some(Dialog::Confirm { action, consequences })
    }
}

/// What a command will lead to, one sentence each, as far as the picture tells.
pub(super) fn consequences(status: &ClusterStatus, action: &Action) -> Vec<String> {
    match action {
        Action::Move { group, to } => {
            let Some(group) = status.groups.iter().find(|g| g.name == *group) else { return Vec::new() };
            let mut all = moved(group, to);
            if let Some(part) = group.nodes.iter().find(|p| p.node == *to && !p.ready) {
                let why = if part.reason.is_empty() { "it is not ready" } else { &part.reason };
                all.push(format!("{to} could not take over now ({why}): the agents will refuse."));
            }
            all
        }
        Action::Mode { node, mode: NodeMode::Online } => {
            vec![
                format!("{node} may lead groups again."),
                "Groups that prefer it and fail back by themselves will move to it.".to_owned(),
            ]
        }
        Action::Mode { node, mode } => {
            let mut all = Vec::new();
            for group in status.groups.iter().filter(|g| g.leader.as_ref() == Some(node)) {
                match group.nodes.iter().find(|p| p.ready && p.node != *node) {
                    Some(_) if *mode == NodeMode::Maintenance => {}
                    Some(part) => all.extend(moved(group, &part.node)),
                    None => all.push(format!(
                        "Group {} has no other node that could take over: it stays, or rests, on {node}.",
                        group.name
                    )),
                }
            }
            for group in status.groups.iter().filter(|g| g.leader.as_ref() != Some(node)) {
                let remaining = group.ready_standbys().any(|other| other != node);
                if group_health(group) == Health::Ok && !remaining {
                    all.push(format!("Group {} will have no standby.", group.name));
                }
            }
            all.push(format!("{node} goes on replicating and leads nothing until it is put online."));
            all
        }
    }
}

fn moved(group: &GroupStatus, to: &NodeName) -> Vec<String> {
    let from = group.leader.as_ref().map_or("nobody", |l| l.as_str());
    let mut all = vec![format!(
        "Group {} is stopped on {from} and started on {to}; connections to it break.",
        group.name
    )];
    if let Some(last) = group.last_takeover.as_ref().filter(|t| t.kind == "handover") {
        let took = crate::cli::paint::duration_ms(last.total_ms);
        all.push(format!("The last handover took {took}."));
    }
    all
}
