// What the page says about a snapshot: pure functions of what `GET /v1/status` answered.

import { bytes, count, duration, list, micros, moment, percent } from './format.js';

/** The words for a group's state, as sentences use them. */
export const STATE_WORDS = {
  unknown: 'not known',
  standby: 'standby',
  campaigning: 'campaigning',
  waiting: 'waiting',
  starting: 'starting',
  serving: 'serving',
  fenced: 'fenced',
  stopping: 'stopping',
  handing_over: 'handing over',
  failed: 'failed',
};

const TONE_OF_STATE = {
  serving: 'ok',
  standby: 'idle',
  unknown: 'bad',
  campaigning: 'busy',
  waiting: 'busy',
  starting: 'busy',
  stopping: 'busy',
  handing_over: 'busy',
  fenced: 'bad',
  failed: 'bad',
};

/** How a state is coloured: `ok`, `idle`, `busy`, `warn` or `bad`. */
export const toneOfState = (state) => TONE_OF_STATE[state] ?? 'warn';

/** A word for a state. */
export const wordOfState = (state) => STATE_WORDS[state] ?? state;

/** How the state of a replica's data is coloured. */
export function toneOfDisk(disk) {
  if (disk === 'UpToDate') return 'ok';
  if (disk === 'Diskless' || disk === 'Failed') return 'bad';
  return 'warn';
}

/** How a connection between replicas is coloured. */
export function toneOfConnection(connection) {
  if (connection === 'Connected') return 'ok';
  if (connection === 'SyncSource' || connection === 'SyncTarget' || connection === 'Handshake') return 'busy';
  return connection === 'StandAlone' ? 'bad' : 'warn';
}

/** A change of leadership, or a start or stop, is under way. */
export const isMoving = (group) => toneOfState(group.state) === 'busy';

/** The standbys that could take the group over now. */
export function readyStandbys(group) {
  return group.nodes.filter((part) => part.node !== group.leader && part.ready).map((part) => part.node);
}

/** The group does not run because somebody has disabled it, or the one that it goes with. */
export const rests = (group) => Boolean(group.disabled || group.rests_with) && !group.leader;

/** The group wants somebody to look. */
export function needsAttention(group) {
  return !rests(group) && (group.state !== 'serving' || readyStandbys(group).length === 0);
}

/** The whole in one sentence, with its tone. */
export function headline(status) {
  const { groups } = status;
  if (groups.length === 0) return { tone: 'warn', text: 'The specification has no groups yet.' };
  const moving = groups.filter(isMoving);
  const away = groups.filter((group) => group.state !== 'serving' && !isMoving(group) && !rests(group));
  const alone = groups.filter((group) => group.state === 'serving' && readyStandbys(group).length === 0);
  if (away.length > 0) return { tone: 'bad', text: sentenceAway(away, groups) };
  if (moving.length > 0) {
    const besides = alone.length ? ` Besides, ${count(alone.length, 'group')} without a standby that could take over.` : '';
    return { tone: 'busy', text: sentenceMoving(moving, groups) + besides };
  }
  if (alone.length > 0) return { tone: 'warn', text: sentenceAlone(alone, groups) };
  const resting = groups.filter(rests).map((group) => group.name);
  if (resting.length > 0) {
    const others = resting.length < groups.length ? '; everything else serves' : '';
    return { tone: 'warn', text: `${list(resting)} ${resting.length === 1 ? 'is' : 'are'} disabled${others}.` };
  }
  const text = groups.length === 1
    ? `${groups[0].name} serves on ${groups[0].leader}; ${list(readyStandbys(groups[0]))} could take over.`
    : `All ${groups.length} groups serve, and each has a standby that could take over.`;
  if (!status.etcd.reachable) {
    return { tone: 'warn', text: `${text} But ${status.node} cannot reach etcd: leadership cannot change.` };
  }
  return { tone: 'ok', text };
}

function sentenceAway(away, groups) {
  if (away.length > 1) {
    return `${away.length} of ${count(groups.length, 'group')} do not serve: ${list(away.map((g) => g.name))}.`;
  }
  const [group] = away;
  const why = reasonOf(group);
  return `${group.name} does not serve${why ? `: ${why}` : ''}.`;
}

function sentenceMoving(moving, groups) {
  if (moving.length > 1) return `${moving.length} of ${count(groups.length, 'group')} are being started or moved.`;
  const [group] = moving;
  const where = group.leader ? ` on ${group.leader}` : '';
  const goal = group.target && group.target !== group.leader ? `, on its way to ${group.target}` : '';
  return `${group.name} is ${wordOfState(group.state)}${where}${goal}.`;
}

function sentenceAlone(alone, groups) {
  if (alone.length > 1) {
    return `Everything serves, but ${alone.length} of ${count(groups.length, 'group')} have no standby that could take over.`;
  }
  const [group] = alone;
  const others = group.nodes.filter((part) => part.node !== group.leader);
  const why = others.length === 1 && others[0].reason ? ` ${others[0].node}: ${others[0].reason}.` : '';
  return `${group.name} serves on ${group.leader}, but no standby could take over.${why}`;
}

/** Why the group is in its state, without the full stop. */
export function reasonOf(group) {
  return (group.reason || '').trim().replace(/\.$/, '');
}

/** Why somebody should look at a group, in one sentence without the full stop; empty if nobody has to. */
export function whyAttention(group) {
  if (!needsAttention(group)) return '';
  if (reasonOf(group)) return reasonOf(group);
  const other = group.nodes.find((part) => part.node !== group.leader && !part.ready && part.reason);
  return other ? `${other.node}: ${other.reason}` : '';
}

/** Groups by the node that leads them. */
export function groupsByLeader(status) {
  const by = new Map(status.nodes.map((node) => [node.name, []]));
  for (const group of status.groups) if (group.leader && by.has(group.leader)) by.get(group.leader).push(group);
  return by;
}

/** A node's state in a word, with its tone. */
export function nodeState(node) {
  const mode = node.mode === 'online' ? '' : node.mode;
  if (!node.alive) return { tone: 'bad', word: mode ? `offline (${mode})` : 'offline' };
  if (mode) return { tone: 'warn', word: mode };
  return { tone: 'ok', word: 'online' };
}

/** Who set a mode that is not `online`, since when, until when and why; nothing if that is not known. */
export function modeSentence(node, now) {
  const note = node.mode === 'online' ? null : node.mode_note;
  if (!note) return null;
  const age = Date.parse(now) - Date.parse(note.since);
  const parts = [`by ${note.owner}`];
  if (age >= 0) parts.unshift(`for ${duration(age)}`);
  if (note.until) parts.push(note.expired ? `was to end at ${moment(note.until)}` : `until ${moment(note.until)}`);
  return { tone: note.expired ? 'bad' : 'warn', text: parts.join(', ') + (note.reason ? `: ${note.reason}` : '') };
}

/** Heartbeats between the answering node and another one. `warn` above 500 ms, the default warntime. */
export function heartbeatLink(node) {
  if (node.age_ms === null || node.age_ms === undefined) return { tone: 'bad', word: 'never heard' };
  if (!node.alive) return { tone: 'bad', word: 'silent' };
  return { tone: node.longest_gap_ms > 500 ? 'warn' : 'ok', word: 'heard' };
}

const WORST = ['ok', 'idle', 'busy', 'warn', 'bad'];

/** Replication between the answering node and `other`: its volumes with their connection, the worst first. */
export function replicationLink(status, other) {
  const volumes = [];
  for (const group of status.groups) {
    for (const volume of group.volumes) {
      const peer = volume.peers.find((p) => p.node === other);
      if (peer) volumes.push({ group, volume, peer, tone: toneOfConnection(peer.connection) });
    }
  }
  volumes.sort((a, b) => WORST.indexOf(b.tone) - WORST.indexOf(a.tone));
  const dirty = volumes.reduce((sum, v) => sum + v.peer.dirty_bytes, 0);
  const lag = volumes.reduce((most, v) => Math.max(most, v.peer.lag_us), 0);
  const source = volumes.find((v) => v.peer.resync && v.peer.connection.startsWith('Sync'));
  const compared = volumes.find((v) => verifyRuns(v.volume.verify) && (!v.volume.verify.peers.length || v.volume.verify.peers.includes(other)));
  return { volumes, tone: volumes[0]?.tone ?? 'idle', dirty, lag, resync: source, verify: compared };
}

/** A resync or verify as numbers for a bar: share 0 to 1, and one line of text. */
export function progress(p) {
  const share = p.total_bytes > 0 ? Math.min(1, p.done_bytes / p.total_bytes) : 1;
  const parts = [`${bytes(p.done_bytes)} of ${bytes(p.total_bytes)}`];
  if (p.bytes_per_s !== undefined) parts.push(p.paused ? 'paused' : p.bytes_per_s > 0 ? `${bytes(p.bytes_per_s)}/s` : 'not moving');
  if (p.eta_s !== null && p.eta_s !== undefined) parts.push(`${duration(p.eta_s * 1000)} left`);
  return { share, percent: percent(share), parts, text: parts.join(' · ') };
}

/** Steps of a change of leadership that is under way, with the one that runs. Nothing if none is. */
export function runningSteps(group) {
  if (!isMoving(group)) return null;
  const done = (group.under_way?.steps ?? []).map((step) => ({ step: step.step, ms: step.ms, state: 'done' }));
  const planned = ['stopping', 'handing_over', 'waiting', 'starting', 'serving'];
  const sudden = ['campaigning', 'waiting', 'starting', 'serving'];
  const leaving = group.state === 'stopping' || group.state === 'handing_over';
  const steps = group.target || leaving ? planned : sudden;
  const at = Math.max(0, steps.indexOf(group.state));
  const words = {
    stopping: 'stop the group',
    handing_over: 'hand over',
    campaigning: 'win the election',
    waiting: 'wait for promises',
    starting: 'volumes, addresses, services',
    serving: 'serve',
  };
  const rest = steps.map((step, n) => ({ step: words[step], state: n < at ? 'done' : n === at ? 'current' : 'ahead' }));
  // What the agent has measured says more than what must have gone before.
  return done.length ? [...done, ...rest.filter((step) => step.state !== 'done')] : rest;
}

/** What changed between two snapshots, as sentences for a screen reader and nothing that only counts up. */
export function changes(before, now) {
  if (!before) return [];
  const said = [];
  for (const group of now.groups) {
    const old = before.groups.find((g) => g.name === group.name);
    if (!old) {
      said.push(`Group ${group.name} is new.`);
      continue;
    }
    const here = group.leader ? ` on ${group.leader}` : '';
    if (group.leader !== old.leader && group.leader) said.push(`${group.leader} now leads ${group.name}.`);
    else if (group.leader !== old.leader) said.push(`${group.name} has no leader.`);
    if (group.state !== old.state) said.push(`${group.name} is ${wordOfState(group.state)}${here}.`);
    const lost = old.in_sync.filter((n) => !group.in_sync.includes(n));
    const won = group.in_sync.filter((n) => !old.in_sync.includes(n));
    if (lost.length) said.push(`${list(lost)} left the in-sync set of ${group.name}.`);
    if (won.length) said.push(`${list(won)} is in sync with ${group.name} again.`);
  }
  for (const node of now.nodes) {
    const old = before.nodes.find((n) => n.name === node.name);
    if (!old) continue;
    if (node.alive !== old.alive) said.push(node.alive ? `${node.name} is back.` : `${node.name} is silent.`);
    if (node.mode !== old.mode) said.push(`${node.name} is set to ${node.mode}.`);
  }
  if (now.etcd.reachable !== before.etcd.reachable) {
    said.push(now.etcd.reachable ? 'etcd answers again.' : 'etcd cannot be reached.');
  }
  if (said.length > 6) return [`${said.length} things changed. ${headline(now).text}`];
  return said;
}

const RANK = { viewer: 0, operator: 1, admin: 2 };
const NEEDS = { move: 'operator', mode: 'operator', verify: 'operator', recover: 'admin' };

/** Why somebody may not do something; empty if they may. */
export function forbidden(action, who) {
  if (!who) return 'It is not known yet what you may do.';
  const needed = NEEDS[action];
  if ((RANK[who.role] ?? -1) >= RANK[needed]) return '';
  const article = needed === 'viewer' ? 'a' : 'an';
  return `Needs the role ${needed}: you are ${article === 'a' ? '' : ''}${who.role}.`;
}

/** What a move of `group` to `to` (or to the best standby) means, in sentences. */
export function consequenceOfMove(group, to) {
  const goal = to ?? readyStandbys(group)[0];
  const said = [];
  if (!goal) return ['No standby could take the group now; the agent will refuse.'];
  if (group.leader) said.push(`${group.name} is stopped on ${group.leader} and started on ${goal}, in one orderly handover.`);
  else said.push(`${goal} is asked to start ${group.name}; nobody leads it now.`);
  if (group.addresses.length) {
    said.push(`${list(group.addresses.map(bare))} moves with it: open connections are cut, clients have to connect again.`);
  }
  const services = group.services.map((service) => service.name);
  if (services.length) said.push(`Restarted there: ${list(services)}.`);
  return [...said, ...lastMove(group)];
}

/** How long the last handover took that the answering agent carried out. */
export function lastMove(group) {
  const last = group.last_takeover;
  return last?.kind === 'handover' ? [`The last handover that was measured here took ${duration(last.total_ms)}.`] : [];
}

/** What a mode of `node` means now. */
export function consequenceOfMode(status, node, mode) {
  const leads = groupsByLeader(status).get(node.name) ?? [];
  const said = [];
  if (mode === 'standby') {
    const movable = leads.filter((group) => readyStandbys(group).length > 0);
    const stuck = leads.filter((group) => readyStandbys(group).length === 0);
    if (movable.length) {
      const goals = [...new Set(movable.map((group) => readyStandbys(group)[0]))];
      said.push(`${list(movable.map((g) => g.name))} moves to ${list(goals)}: open connections to ${movable.length === 1 ? 'it' : 'them'} are cut once.`);
    }
    if (stuck.length) said.push(`${list(stuck.map((g) => g.name))} has no standby that could take over and stays until it has one.`);
    if (!leads.length) said.push(`${node.name} leads nothing now: no service is interrupted.`);
    said.push(`It goes on replicating, but takes nothing over until it is online again.`);
  } else if (mode === 'maintenance') {
    said.push('Nothing is moved from, to or restarted on this node until it is online again, not even after a failure.');
    if (leads.length) said.push(`${list(leads.map((g) => g.name))} goes on here without protection.`);
    else said.push('Groups that run elsewhere cannot fail over to it.');
  } else {
    said.push(`${node.name} may lead groups again and take them over.`);
    said.push('Nothing moves at once, unless a group prefers this node and has auto_failback.');
  }
  return said;
}

/** What verifying `volume` means. */
export function consequenceOfVerify(volume, repair) {
  const peers = volume.peers.map((peer) => peer.node);
  return [
    `Compares checksums of all ${bytes(volume.size_bytes)} with ${list(peers) || 'its peers'} while the service goes on.`,
    'Reads every block on both sides, at a bounded rate; what differs is marked and counted.',
    repair ? 'What differs is copied from the primary, what earlier runs marked first.' : 'Nothing is changed.',
  ];
}

/** The verify goes on, or will. */
export const verifyRuns = (verify) => verify?.state === 'running' || verify?.state === 'waiting';

/** A verify as numbers for a bar. */
export const verifyProgress = (verify) => ({ ...verify, done_bytes: verify.checked_bytes });

/** What a verify has found and repaired, with its tone; nothing as long as nothing differs. */
export function verifyFound(verify) {
  const { mismatched_bytes: found, repaired_bytes: copied } = verify;
  if (found === 0 && copied === 0) return null;
  if (found === 0) return { tone: 'ok', text: `${bytes(copied)} that were marked before copied` };
  const text = `${bytes(found)} differ${verifyRuns(verify) ? '' : 'ed'}, ${bytes(copied)} copied`;
  if (copied >= found) return { tone: 'ok', text };
  if (verify.repair && verifyRuns(verify)) return { tone: 'warn', text };
  return { tone: 'bad', text: `${bytes(found)} differ${copied > 0 ? `, ${bytes(copied)} copied` : ''}: verify with repair copies the primary’s` };
}

/** What recovering `group` means. */
export function consequenceOfRecover(status, group) {
  return [
    `You vouch for what etcd says about ${group.name} now: automatic takeovers start again from there.`,
    'Only do this after etcd was restored or replaced and you know which node holds the newest data: a wrong record can bring an old state of the data back into service.',
    `It concerns the agent that answers here (${status.node}); every agent has to be told.`,
  ];
}

/** An address without its prefix length. */
export function bare(address) {
  return address.split('/')[0];
}

/** The facts about a replica's peer in one line. */
export function peerLine(peer) {
  const parts = [];
  if (peer.connection === 'Connected' || peer.connection.startsWith('Sync')) parts.push(`lag ${micros(peer.lag_us)}`);
  if (peer.dirty_bytes > 0) parts.push(`${bytes(peer.dirty_bytes)} differ`);
  if (peer.unacked_bytes > 0) parts.push(`${bytes(peer.unacked_bytes)} unanswered`);
  if (peer.oldest_unacked_ms >= 100) parts.push(`oldest waits ${duration(peer.oldest_unacked_ms)}`);
  return parts.join(' · ');
}
