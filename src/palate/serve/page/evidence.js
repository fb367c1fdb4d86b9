// The second view: the verdict, the metrics of each model, and the run's report.

import { Task, hasKey, send } from './api.js';
import { $, h } from './dom.js';
import { label, model } from './state.js';

const SHOWN = {
  auc: 'AUC', gauc: 'GAUC', pair_auc: 'pair AUC', log_loss: 'log loss', brier: 'Brier', ece: 'ECE', accuracy: 'accuracy', f1: 'F1',
  n: 'rows', users: 'users',
};
const LOWER = new Set(['log_loss', 'brier', 'ece']), NEITHER = new Set(['n', 'users']);
const PARTS = { train: 'to train', val: 'to validate', test: 'to test' };
const named = name => value => [name, plain(value)];
const parts = name => value => (typeof value !== 'object' || value === null ? [name, plain(value)]
  : [name, Object.entries(value).map(([part, n]) => `${plain(n)} ${PARTS[part] ?? part}`).join(', ')]);
const NAMES = { // of the fields of a run
  calibration: {
    baseline: key => ['The language model is added to', label(key)],
    alpha: value => ['Weight of the language model in the sum', value ? plain(value) : '0: it changes nothing'],
    intercept: named('Constant in the sum'),
  },
  data: {
    name: named('Data'), users: named('Users'), users_with_samples: named('Users with rows to learn or test'), items: named('Items'),
    ratings: named('Ratings'), scale: value => ['Scale of the ratings', Array.isArray(value) ? value.map(plain).join(' to ') : plain(value)],
    density: value => ['Pairs of user and item that are rated', `${plain(100 * value)} %`], samples: parts('Rows'), yes: parts('Rows that are liked'),
    eval: named('Rows to watch the training'),
  },
  prompt: {
    system: named('Prompt: system message'), instruction: named('Prompt: instruction'), history_header: named('Prompt: before the ratings'),
    history_line: named('Prompt: each rating'), candidate_header: named('Prompt: before the candidate'),
    candidate_line: named('Prompt: the candidate'), question: named('Prompt: question'), yes: named('Answer for “like”'), no: named('Answer for “dislike”'),
  },
};
let loaded = false;

export function startEvidence() {
  const why = model.why ?? [];
  say($('why'), why);
  if (why.length) $('verdict').append(h('h2', { text: 'The verdict on the test rows' }));
  say($('verdict'), model.verdict.length ? model.verdict : ['This run has no evaluation yet.'], why.length > 0);
  $('metrics').append(table());
  for (const [name, value] of facts()) {
    if (value !== '') $('facts').append(h('div', {}, h('dt', { text: name }), h('dd', { text: value })));
  }
}

/** Shows sentences: the first one large, or all alike. */
function say(place, sentences, alike = false) {
  const [first, rest] = alike ? [[], sentences] : [sentences.slice(0, 1), sentences.slice(1)];
  place.append(...first.map(text => h('p', { class: 'big', text })), rest.length ? h('ul', {}, ...rest.map(text => h('li', { text }))) : '');
}

/** What serves, as [name, text]; a field that this page does not know is shown under its own name. */
function facts() {
  const all = [
    ['Run', model.run], ['Answers by default', label(model.default)], ['Language model', model.base ?? ''],
    ['Adapter (the training’s result)', model.adapter ?? ''],
  ];
  for (const part of ['calibration', 'data', 'prompt']) {
    for (const [key, value] of Object.entries(model[part] ?? {})) all.push(NAMES[part][key]?.(value) ?? [wordsOf(key), plain(value)]);
  }
  return [...all, ['Palate’s version', model.palate ?? '']];
}

const wordsOf = key => `${key[0]?.toUpperCase() ?? ''}${key.slice(1)}`.replaceAll('_', ' ');

/** A value of any depth as text: “train 73,477, val 4,106”. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(', ');
  if (value === null || value === undefined) return '';
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value === 'object') return Object.entries(value).map(([name, of]) => `${wordsOf(name).toLowerCase()} ${plain(of)}`).join(', ');
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
