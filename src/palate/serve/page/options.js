// Which model answers, what stands beside it, and the filters.

import { $, accuracy, h, keepFocus, later, plural } from './dom.js';
import { beside, chosen, kind, label, model, ranked, replace, state } from './state.js';

const PAUSE = 500; // milliseconds after the last key
const SHORT = 140; // characters of a reason that stands below the menu
const FIRST = 4; // classical models that are listed; the others are folded
const MORE = ' more'; // no key: a key has no space
const NAMES = ['item_id', 'title']; // an item itself, which the search finds
let folded = true, open = null; // the menu's tail, and the list's: null until the visitor folds it

/** Starts the choices; `change()` is called when one of them is another. */
export function startOptions(change) {
  const set = changed => { replace(changed); show(set); change(); };
  $('model').addEventListener('change', ({ target: { value } }) => {
    if (value === MORE) unfold();
    else set({ model: value === model.default ? null : value });
  });
  const [why] = model.why ?? [];
  $('model-note').hidden = !why || why.length > SHORT;
  $('model-note').textContent = why ?? '';
  $('retriever').addEventListener('change', event => set({ retriever: event.target.value }));
  $('top').addEventListener('change', event => set({ top: Number(event.target.value) }));
  const filters = Object.entries(model.filters).filter(([column]) => !NAMES.includes(column)).sort(([a], [b]) => a.localeCompare(b));
  $('filters').append(...filters.map(([column, kind]) => filterOf(column, kind, set)));
  $('filters').hidden = !filters.length;
  show(set);
}

/** The models by group, each the best first: [the group's name, those listed, those folded]. */
function groups(keys) {
  const of = (name, is) => [name, keys.filter(is), []];
  const [classical, language] = [key => kind(key) === 'baseline', key => kind(key) !== 'baseline'];
  const other = key => key !== model.default;
  const all = [
    of('Recommended', key => !other(key)), of('Language models', key => other(key) && language(key)),
    of('Classical models', key => other(key) && classical(key)),
  ];
  const [, listed] = all[2];
  if (listed.length > FIRST + 1) all[2] = [all[2][0], listed.slice(0, FIRST), listed.slice(FIRST)];
  return all.filter(([, listed]) => listed.length);
}

function show(set) {
  showMenu();
  const ticked = new Set(beside());
  const tick = key => ({ target }) => set({ beside: target.checked ? [...beside(), key] : beside().filter(other => other !== key) });
  const ticks = keys => h('div', { class: 'ticks' }, ...keys.map(key => h(
    'label', { class: 'tick' }, h('input', { type: 'checkbox', id: `beside-${key}`, checked: ticked.has(key), on: { change: tick(key) } }), label(key),
  )));
  const lists = groups(ranked().filter(key => key !== chosen())).map(([name, listed, rest]) => h(
    'div', { role: 'group', 'aria-label': name }, h('p', { class: 'of', text: name }), ticks(listed), rest.length ? h(
      'details', { open: open ?? rest.some(key => ticked.has(key)) },
      h('summary', { id: 'more', text: `${rest.length} more`, on: { click: ({ target }) => { open = !target.parentNode.open; } } }), ticks(rest),
    ) : null,
  ));
  keepFocus(() => $('beside').lastElementChild.replaceChildren(...tuned(set), ...lists));
  $('retriever').value = state.retriever;
  $('top').value = state.top;
  const count = Object.keys(state.filters).length;
  $('options-note').textContent = [ticked.size ? `${ticked.size} compared` : '', count ? plural(count, 'filter') : ''].filter(Boolean).join(', ');
}

/** The menu of models; its last entry lists the folded ones. */
function showMenu() {
  $('model').replaceChildren(...groups(ranked()).map(([name, listed, rest]) => {
    const all = folded ? [...listed, ...rest.filter(key => key === chosen())] : [...listed, ...rest];
    const left = listed.length + rest.length - all.length;
    return h('optgroup', { label: name }, ...all.map(optionOf), left ? h('option', { value: MORE, text: `${left} more …` }) : null);
  }));
}

function unfold() {
  folded = false;
  showMenu();
  try { $('model').showPicker(); } catch { /* the next click shows it */ }
}

function optionOf(key) {
  const entry = model.models.find(entry => entry.key === key);
  return h('option', { value: key, selected: key === chosen(), text: [entry.label, accuracy(entry)].filter(Boolean).join(' · ') });
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
    : h('input', { id, placeholder: 'several with commas', autocomplete: 'off', list: `${id}-values` });
  if (type === 'flag') {
    field.value = { true: 'yes', false: 'no' }[now] ?? 'any';
    field.addEventListener('change', () => put({ yes: true, no: false }[field.value]));
    return h('div', { class: 'choice' }, h('label', { for: id, text: column }), field);
  }
  field.value = [now ?? []].flat().join(', ');
  const list = offer(field, model.filter_values[column] ?? [], values => put(values.length > 1 ? values : values[0]));
  return h('div', { class: 'choice' }, h('label', { for: id, text: column }), field, list);
}

/** Offers the values of a column for the last one of a field; its list. Calls `put(values)` with known ones as they are typed, else at the end. */
function offer(field, known, put) {
  const list = h('datalist', { id: field.getAttribute('list') }), names = new Set(known.map(name => name.toLowerCase()));
  const has = text => names.has(text.toLowerCase());
  const given = () => {
    const whole = field.value.trim(); // a value may have a comma itself
    return has(whole) ? [whole] : whole.split(',').map(value => value.trim()).filter(Boolean);
  };
  const show = () => {
    const before = field.value.match(/^.*,\s*/s)?.[0] ?? '';
    list.replaceChildren(...known.map(name => h('option', { value: before + name })));
  };
  field.addEventListener('input', show);
  let last = given().join();
  const take = () => { if (given().join() !== last) put(given()); last = given().join(); };
  field.addEventListener('input', later(PAUSE, () => { if (given().every(has)) take(); }));
  field.addEventListener('change', take);
  show();
  return list;
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

/** Opens the filters, at the first one in use. */
export function toFilters() {
  $('options').open = true;
  const [column] = Object.keys(state.filters).sort((a, b) => (typeof state.filters[a] === 'object') - (typeof state.filters[b] === 'object'));
  ($(`filter-${column}`) ?? $(`filter-${column}-min`))?.focus();
}
