// The second view: the verdict, the metrics of each model, and the run's report.

import { Task, hasKey, send } from './api.js';
import { $, h } from './dom.js';
import { label, model } from './state.js';

const SHOWN = {
  auc: 'AUC', gauc: 'GAUC', pair_auc: 'pair AUC', log_loss: 'log loss', brier: 'Brier', ece: 'ECE', accuracy: 'accuracy', f1: 'F1',
  n: 'rows', users: 'users',
};
const LOWER = new Set(['log_loss', 'brier', 'ece']), NEITHER = new Set(['n', 'users']);
let loaded = false;

export function startEvidence() {
  const [first, ...rest] = model.verdict;
  $('verdict').append(h('p', { class: 'big', text: first ?? 'This run has no evaluation yet.' }), h('ul', {}, ...rest.map(text => h('li', { text }))));
  $('metrics').append(table());
  const facts = { run: model.run, 'answers by default': label(model.default), base: model.base, adapter: model.adapter };
  for (const [part, value] of [['calibration', model.calibration], ['data', model.data], ['prompt', model.prompt]]) {
    for (const [name, of] of Object.entries(value ?? {})) facts[`${part}: ${name}`] = of;
  }
  for (const [name, value] of Object.entries({ ...facts, Palate: model.palate })) {
    if (plain(value ?? '') !== '') $('facts').append(h('div', {}, h('dt', { text: name }), h('dd', { text: plain(value) })));
  }
}

/** A value of any depth as text: “train 73,477, val 4,106”. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(', ');
  if (typeof value === 'object' && value !== null) return Object.entries(value).map(([name, of]) => `${name} ${plain(of)}`).join(', ');
  return typeof value === 'number' ? value.toLocaleString('en') : `${value}`;
}

function table() {
  const rows = Object.entries(model.metrics).sort(([, a], [, b]) => (b.auc ?? 0) - (a.auc ?? 0));
  if (!rows.length) return h('p', { class: 'note', text: 'No metrics: evaluate the run first (palate evaluate).' });
  const columns = Object.keys(SHOWN).filter(column => rows.some(([, metrics]) => typeof metrics[column] === 'number'));
  const best = Object.fromEntries(columns.map(column => {
    const values = rows.map(([, metrics]) => metrics[column]).filter(value => typeof value === 'number');
    return [column, NEITHER.has(column) ? NaN : (LOWER.has(column) ? Math.min : Math.max)(...values)];
  }));
  const cell = (column, value) => h('td', {
    class: value === best[column] ? 'n best' : 'n',
    text: typeof value !== 'number' ? '–' : NEITHER.has(column) ? value.toLocaleString('en') : value.toFixed(3),
  });
  const head = columns.map(column => h('th', { scope: 'col', class: 'n', text: SHOWN[column] }));
  return h('table', {}, h('thead', {}, h('tr', {}, h('th', { scope: 'col', text: 'model' }), ...head)), h('tbody', {}, ...rows.map(([key, metrics]) => h(
    'tr', { class: key === model.default ? 'used' : '' }, h('th', { scope: 'row', text: label(key) }), ...columns.map(column => cell(column, metrics[column])),
  ))));
}

/** Loads the report when the view opens for the first time. */
export async function showEvidence() {
  if (loaded) return;
  const task = new Task($('report-line'));
  loaded = true;
  await task.run(async how => {
    let response;
    try {
      response = await send('report', how);
    } catch (error) {
      if (error.status !== 404) { loaded = false; throw error; }
      $('report').append(h('p', { class: 'note', text: 'This run has no report; palate run and palate evaluate write one.' }));
      return;
    }
    if (hasKey()) await offer(response);
    else { response.body.cancel(); frame(); }
  });
}

/** A frame without scripts, as high as the report. */
function frame() {
  const frame = h('iframe', { src: 'report', title: 'Report of the run', sandbox: 'allow-same-origin' });
  const fit = () => {
    const root = frame.contentDocument?.documentElement;
    if (root) frame.style.height = `${root.scrollHeight}px`;
  };
  frame.addEventListener('load', () => { fit(); new ResizeObserver(fit).observe(frame.contentDocument?.body ?? frame); });
  const alone = h('a', { href: 'report', target: '_blank', rel: 'noopener', text: 'Open the report alone' });
  $('report').replaceChildren(h('p', { class: 'note' }, alone), frame);
}

/** A frame cannot send the API key: the report is offered as a file. */
async function offer(response) {
  const file = URL.createObjectURL(await response.blob());
  $('report').replaceChildren(h('p', {}, h('a', { href: file, download: `${model.run}-report.html`, text: 'Save the report' })));
}
