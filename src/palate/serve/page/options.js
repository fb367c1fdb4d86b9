// Which model answers, what stands beside it, and the filters.

import { $, h, keepFocus, later, plural } from './dom.js';
import { beside, chosen, kind, label, model, ranked, replace, state } from './state.js';

const PAUSE = 500; // milliseconds after the last key
const KINDS = { sum: 'Combinations', baseline: 'Classical models', 'language model': 'Language models' };

/** Starts the choices; `change()` is called when one of them is another. */
export function startOptions(change) {
  const set = changed => { replace(changed); show(set); change(); };
  $('model').addEventListener('change', event => set({ model: event.target.value === model.default ? null : event.target.value }));
  $('retriever').addEventListener('change', event => set({ retriever: event.target.value }));
  $('top').addEventListener('change', event => set({ top: Number(event.target.value) }));
  const filters = Object.entries(model.filters).sort(([a], [b]) => a.localeCompare(b));
  $('filters').append(...filters.map(([column, kind]) => filterOf(column, kind, set)));
  $('filters').hidden = !filters.length;
  show(set);
}

function show(set) {
  const groups = Object.entries(KINDS).map(([of, name]) => [name, model.models.filter(entry => entry.kind === of)]);
  $('model').replaceChildren(...groups.filter(([, entries]) => entries.length).map(
    ([name, entries]) => h('optgroup', { label: name }, ...entries.map(optionOf)),
  ));
  const ticked = new Set(beside());
  const tick = key => ({ target }) => set({ beside: target.checked ? [...beside(), key] : beside().filter(other => other !== key) });
  const ticks = ranked().filter(key => key !== chosen()).map(key => h(
    'label', { class: 'tick' }, h('input', { type: 'checkbox', id: `beside-${key}`, checked: ticked.has(key), on: { change: tick(key) } }), label(key),
  ));
  keepFocus(() => $('beside').replaceChildren($('beside').firstElementChild, ...tuned(set), ...ticks));
  $('retriever').value = state.retriever;
  $('top').value = state.top;
  const count = Object.keys(state.filters).length;
  $('options-note').textContent = `${ticked.size} beside${count ? `, ${plural(count, 'filter')}` : ''}`;
}

function optionOf({ key, label: name, auc }) {
  const text = `${name}${auc === null ? '' : ` · AUC ${auc.toFixed(3)}`}${key === model.default ? ' · recommended' : ''}`;
  return h('option', { value: key, selected: key === chosen(), text });
}

/** A button for the comparison that people want most: the language model before and after training. */
function tuned(set) {
  const [best, ...others] = ranked().filter(key => kind(key) === 'language model');
  const click = () => set({ model: best, beside: others });
  return others.length ? [h('button', { class: 'quiet', type: 'button', id: 'tuned', text: 'Base and fine-tuned side by side', on: { click } })] : [];
}

/** The fields of one filter; `put(value)` takes what they hold, undefined for nothing. */
function filterOf(column, type, set) {
  const id = `filter-${column}`, now = state.filters[column];
  const put = value => {
    const { [column]: _, ...others } = state.filters;
    set({ filters: value === undefined ? others : { ...others, [column]: value } });
  };
  if (type === 'number') return boundsOf(column, id, now, put);
  const field = type === 'flag' ? h('select', { id }, ...['any', 'yes', 'no'].map(text => h('option', { text })))
    : h('input', { id, placeholder: 'one or more, with commas', autocomplete: 'off' });
  if (type === 'flag') {
    field.value = { true: 'yes', false: 'no' }[now] ?? 'any';
    field.addEventListener('change', () => put({ yes: true, no: false }[field.value]));
  } else {
    field.value = [now ?? []].flat().join(', ');
    field.addEventListener('input', later(PAUSE, () => {
      const values = field.value.split(',').map(value => value.trim()).filter(Boolean);
      put(values.length > 1 ? values : values[0]);
    }));
  }
  return h('div', { class: 'choice' }, h('label', { for: id, text: column }), field);
}

function boundsOf(column, id, now, put) {
  const ends = [['min', 'from'], ['max', 'to']];
  const fields = ends.map(([end, text]) => h('input', {
    type: 'number', step: 'any', id: `${id}-${end}`, value: now?.[end], placeholder: text, 'aria-label': `${column}, ${text}`,
  }));
  const read = later(PAUSE, () => {
    const given = ends.map(([end], n) => [end, fields[n].valueAsNumber]).filter(([, bound]) => Number.isFinite(bound));
    put(given.length ? Object.fromEntries(given) : undefined);
  });
  for (const field of fields) field.addEventListener('input', read);
  return h('div', { class: 'choice', role: 'group', 'aria-label': column }, h('span', { class: 'of', text: column }), h('span', { class: 'bounds' }, ...fields));
}
