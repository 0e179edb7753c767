// The hosts as cards, what runs where, and the links between them: heartbeats and replication as the answering agent
// sees them, and etcd below.

import { h, s } from './dom.js';
import { icon } from './icons.js';
import { bytes, count, duration, micros } from './format.js';
import { bare, groupsByLeader, heartbeatLink, modeSentence, needsAttention, nodeState, progress, replicationLink, toneOfState, verifyFound, verifyProgress, wordOfState } from './model.js';
import { actionButton } from './actions.js';

/** Groups shown on a host's card; the rest is counted. */
const MOST = 6;

/** The section. */
export function topology(app) {
  const { status } = app;
  const { nodes } = status;
  const leading = groupsByLeader(status);
  const here = nodes.find((node) => node.name === status.node);
  const others = nodes.filter((node) => node !== here);
  const pair = nodes.length === 2 && here;
  const parts = [];
  if (pair) {
    // Two hosts keep their places, whichever of them answers.
    parts.push(card(app, nodes[0], leading), link(app, others[0], nodes[0] === here), card(app, nodes[1], leading));
  } else {
    if (here) parts.push(card(app, here, leading, others.length));
    for (const node of others) parts.push(link(app, node, true), card(app, node, leading));
  }
  return h('section', { key: 'topology', class: 'topology', 'aria-labelledby': 'hosts-title' },
    h('h2', { id: 'hosts-title' }, 'Hosts'),
    h('div', { class: `hosts ${pair ? 'pair' : nodes.length > 2 ? 'star' : 'single'}` }, parts),
    etcd(app));
}

function card(app, node, leading, rows = 1) {
  const { status } = app;
  const state = nodeState(node);
  // Those that somebody should look at come first: only a few have room.
  const led = [...(leading.get(node.name) ?? [])].sort((a, b) => needsAttention(b) - needsAttention(a));
  const answers = node.name === status.node;
  const said = modeSentence(node, status.at);
  return h('article', { key: `host-${node.name}`, class: `host ${node.alive ? '' : 'gone'} ${led.length ? 'leads' : ''}`, 'data-node': node.name, 'aria-labelledby': `host-${node.name}`, style: rows > 1 ? { 'grid-row': `1 / span ${rows}` } : {} },
    h('header', {},
      h('h3', { id: `host-${node.name}` }, node.name),
      h('span', { class: `chip ${state.tone}` }, icon(state.tone), state.word),
      answers && h('span', { class: 'here' }, 'answers here')),
    h('p', { class: 'facts' },
      h('code', {}, node.address),
      h('span', {}, node.version ? `agent ${node.version}` : 'agent not known')),
    said && h('p', { class: `note tone-${said.tone}` }, said.text),
    h('div', { class: 'stage' },
      led.length === 0
        ? h('p', { class: 'dim none' }, node.alive ? 'Leads no group' : 'Led nothing when last heard')
        : h('ul', { class: 'pills', 'aria-label': `Groups that ${node.name} leads` },
          led.slice(0, MOST).map((group) => pill(app, group)),
          led.length > MOST && h('li', { key: 'more', class: 'pill more' },
            h('a', { href: '#groups', onclick: () => app.set({ groupText: node.name, attention: false }) }, `and ${count(led.length - MOST, 'more group')}`)))),
    h('p', { class: 'facts dim' }, heard(app, node, answers),
      node.late_heartbeats > 0 && h('span', {}, `${count(node.late_heartbeats, 'late heartbeat')}`),
      node.refused_datagrams > 0 && h('span', { class: 'tone-warn' }, `${count(node.refused_datagrams, 'datagram')} refused`)),
    h('footer', {},
      node.mode !== 'online' && actionButton(app, 'mode', 'Online', () => app.ask('mode', { node: node.name, mode: 'online' }), `Set ${node.name} online`),
      node.mode !== 'standby' && actionButton(app, 'mode', 'Standby', () => app.ask('mode', { node: node.name, mode: 'standby' }), `Set ${node.name} to standby`),
      node.mode !== 'maintenance' && actionButton(app, 'mode', 'Maintenance', () => app.ask('mode', { node: node.name, mode: 'maintenance' }), `Set ${node.name} to maintenance`)));
}

function pill(app, group) {
  const tone = toneOfState(group.state);
  return h('li', { key: group.name, class: `pill ${tone}` },
    h('span', { class: 'dot', 'aria-hidden': 'true' }),
    h('a', { href: `#group-${group.name}`, onclick: (event) => app.onShowGroup(event, group.name) }, group.name),
    group.state !== 'serving' && h('span', { class: 'word' }, wordOfState(group.state)),
    group.addresses.map((address) => h('code', { key: address, class: 'vip', title: 'The address is here' }, bare(address))));
}

function heard(app, node, answers) {
  if (answers) return h('span', {}, 'this page is its view');
  if (node.age_ms === null || node.age_ms === undefined) return h('span', { class: 'tone-bad' }, 'never heard');
  const age = node.age_ms + (app.live.age() ?? 0);
  // While all is well the exact age changes with every heartbeat and says nothing.
  if (age < 1000) return h('span', {}, 'heard less than 1 s ago');
  return h('span', { class: 'tone-bad' }, `heard ${duration(Math.round(age / 1000) * 1000)} ago`);
}

/** The two lines between the answering host and another one. */
function link(app, other, fromLeft) {
  const { status } = app;
  const beat = heartbeatLink(other);
  const data = replicationLink(status, other.name);
  const first = data.volumes[0];
  const sends = data.volumes.some(({ volume }) => volume.role === 'Primary');
  const takes = data.volumes.some(({ volume }) => volume.role === 'Secondary');
  const both = sends && takes;
  const forward = sends === fromLeft;
  const flow = data.tone === 'ok' || data.tone === 'busy' ? (both ? 'both' : forward ? 'right' : 'left') : 'cut';
  const dataWord = !first ? 'no volumes' : data.resync ? first.peer.connection : summary(data.volumes);
  return h('div', { key: `link-${other.name}`, class: 'link', role: 'group', 'aria-label': `Links between ${status.node} and ${other.name}` },
    wire('heartbeat', 'heart', 'Heartbeats', beat.tone, beat.tone === 'bad' ? 'cut' : 'both',
      beat.tone === 'bad' ? beat.word : `longest gap ${duration(other.longest_gap_ms)}`),
    wire('data', 'disk', 'Replication', data.tone, flow, dataWord,
      data.resync ? bar(data.resync.peer.resync, `Resync of ${data.resync.volume.volume}`)
        : data.verify ? verifyOf(data.verify.volume)
        : first && first.peer.reason ? h('p', { class: 'note' }, first.peer.reason)
          : first && h('p', { class: 'note' }, sends && data.lag > 0 ? `lag ${micros(data.lag)}` : '', data.dirty > 0 ? ` ${bytes(data.dirty)} differ` : '')));
}

/** The verify that runs: its bar, and what it has found. */
function verifyOf({ volume, verify }) {
  const found = verifyFound(verify);
  return h('div', { key: 'verify' },
    h('p', { class: 'note dim' }, `Verify of ${volume}${verify.repair ? ', with repair' : ''}${verify.reason ? `: ${verify.reason}` : ''}`),
    bar(verifyProgress(verify), `Verify of ${volume} between the hosts`),
    found && h('p', { class: `note tone-${found.tone}` }, found.text));
}

function summary(volumes) {
  const worst = volumes[0].peer.connection;
  if (volumes.length === 1) return worst;
  const same = volumes.filter((v) => v.peer.connection === worst).length;
  return same === volumes.length ? `${count(same, 'volume')} ${worst}` : `${same} of ${volumes.length} ${worst}`;
}

function wire(kind, sign, name, tone, flow, word, extra) {
  return h('div', { class: `wire ${kind} ${tone}` },
    h('p', { class: 'label' }, icon(sign), h('span', {}, name), h('strong', { class: `tone-${tone}` }, word)),
    h('div', { class: `run ${flow}`, 'aria-hidden': 'true' },
      s('svg', { viewBox: '0 0 100 6', preserveAspectRatio: 'none' },
        s('line', { x1: 0, y1: 3, x2: 100, y2: 3, 'vector-effect': 'non-scaling-stroke' }))),
    extra);
}

/** A bar for a resync or verify, readable for everybody. */
export function bar(p, label, tone = 'busy') {
  const { share, percent, parts, text } = progress(p);
  return h('div', { class: `progress ${tone}` },
    h('div', { class: 'track', role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.floor(share * 100), 'aria-valuetext': `${percent}, ${text}` },
      h('div', { class: 'done', style: { width: `${(share * 100).toFixed(2)}%` } })),
    h('p', { class: 'numbers' }, h('strong', {}, percent), parts.map((part) => h('span', {}, part))));
}

function etcd({ status }) {
  const { etcd: e, node } = status;
  return h('div', { class: `etcd ${e.reachable ? 'ok' : 'bad'}`, role: 'group', 'aria-label': 'etcd' },
    h('strong', {}, 'etcd'),
    h('span', { class: `chip ${e.reachable ? 'ok' : 'bad'}` }, icon(e.reachable ? 'ok' : 'bad'), e.reachable ? 'reachable' : 'unreachable'),
    h('span', {}, `from ${node}`),
    h('span', {}, count(e.endpoints.length, 'endpoint')),
    e.ttl_s ? h('span', {}, `lease ${e.ttl_s} s`) : h('span', { class: 'tone-warn' }, 'no lease'),
    h('span', { class: 'dim' }, `revision ${e.revision}`),
    e.age_ms > 3_000 && h('span', { class: 'tone-warn' }, `answered ${duration(Math.round(e.age_ms / 1000) * 1000)} ago`),
    !e.reachable && h('p', { class: 'note' }, `${e.error ?? 'No answer yet'}. Services go on; leadership cannot change.`));
}
