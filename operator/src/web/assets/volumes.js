// A volume: role, data, connection to each peer, and bars for what is being copied or compared.

import { h } from './dom.js';
import { icon } from './icons.js';
import { bytes, list } from './format.js';
import { peerLine, toneOfConnection, toneOfDisk, verifyFound, verifyProgress, verifyRuns } from './model.js';
import { actionButton } from './actions.js';
import { bar } from './topology.js';

const VERIFY_WORDS = { running: 'Verify', waiting: 'Verify waits', done: 'Last verify', stopped: 'Verify stopped', aborted: 'Verify gave up' };

/** One volume as the answering agent's replicator sees it. */
export function volumeRow(app, volume) {
  return h('div', { key: `volume-${volume.volume}`, class: 'volume', 'data-volume': volume.volume },
    h('div', { class: 'line' },
      h('strong', {}, icon('disk'), volume.volume),
      h('span', {}, volume.role),
      h('span', { class: `tone-${toneOfDisk(volume.disk)}` }, volume.disk),
      h('span', { class: 'dim' }, [bytes(volume.size_bytes), volume.filesystem].filter(Boolean).join(' ')),
      actionButton(app, 'verify', 'Verify …', () => app.ask('verify', { volume: volume.volume }), `Verify ${volume.volume}`, 'small', app.noVerify)),
    volume.frozen && h('p', { class: 'note tone-bad' }, icon('warn'), `Frozen: ${volume.frozen}`),
    volume.peers.map((peer) => peerRow(volume, peer)),
    volume.alarms.slice(-3).map((alarm) => h('p', { key: alarm, class: 'note tone-bad' }, icon('warn'), alarm)),
    volume.verify && verify(volume));
}

function peerRow(volume, peer) {
  const running = peer.resync && peer.connection.startsWith('Sync');
  const goal = peer.connection === 'SyncTarget' ? `from ${peer.node}` : `to ${peer.node}`;
  return h('div', { key: peer.node, class: 'peer' },
    h('p', { class: 'line' },
      h('span', {}, '↔ ', peer.node),
      h('span', { class: `tone-${toneOfConnection(peer.connection)}` }, peer.connection),
      h('span', { class: peer.disk === 'DUnknown' ? 'dim' : `tone-${toneOfDisk(peer.disk)}` }, peer.disk === 'DUnknown' ? 'data not known' : peer.disk),
      h('span', { class: 'dim' }, peerLine(peer))),
    peer.reason && h('p', { class: 'note' }, peer.reason),
    running && h('div', { class: 'job' }, h('span', { class: 'dim' }, `Resync ${goal}`), bar(peer.resync, `Resync of ${volume.volume} ${goal}`)));
}

/** The verify that runs, or how the last one ended. */
function verify(volume) {
  const v = volume.verify;
  const against = v.peers.length ? ` against ${list(v.peers)}` : '';
  const runs = verifyRuns(v);
  const found = verifyFound(v);
  return h('div', { key: 'verify', class: 'job', 'data-verify': v.state },
    h('span', { class: 'dim' }, `${VERIFY_WORDS[v.state] ?? v.state}${against}${v.repair ? ', with repair' : ''}`, v.reason && `: ${v.reason}`),
    runs && bar(verifyProgress(v), `Verify of ${volume.volume}${against}`),
    found && h('p', { class: `note tone-${found.tone}` }, icon(found.tone === 'ok' ? 'ok' : 'warn'), found.text),
    v.state === 'done' && !found && h('p', { class: 'note tone-ok' }, icon('ok'), `${bytes(v.checked_bytes)} compared, nothing differs`));
}
