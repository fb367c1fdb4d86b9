// Which model answers, what stands beside it, and the filters.

import { $, h, later } from './dom.js';
import { beside, chosen, kind, label, model, ranked, replace, state } from './state.js';

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

/** Shows the choices as they are, after a change from elsewhere too. */
export function show(set) {
  const groups = Object.entries(KINDS).map(([of, name]) => [name, model.models.filter(entry => entry.kind === of)]).filter(([, entries]) => entries.length);
  $('model').replaceChildren(...groups.map(([name, entries]) => h('optgroup', { label: name }, ...entries.map(({ key, label: name, auc }) => h('option', {
    value: key, selected: key === chosen(), text: `${name}${auc === null ? '' : ` · AUC ${auc.toFixed(3)}`}${key === model.default ? ' · recommended' : ''}`,
  })))));
  const ticked = new Set(beside());
  const held = document.activeElement?.id;
  $('beside').replaceChildren($('beside').firstElementChild, ...tuned(set), ...ranked().filter(key => key !== chosen()).map((key, n) => h(
    'label', { class: 'tick' }, h('input', {
      type: 'checkbox', id: `beside-${n}`, checked: ticked.has(key),
      on: { change: event => set({ beside: event.target.checked ? [...beside(), key] : beside().filter(other => other !== key) }) },
    }), label(key),
  )));
  $(held)?.focus();
  $('retriever').value = state.retriever;
  $('top').value = state.top;
  const count = Object.keys(state.filters).length;
  $('options-note').textContent = [`${ticked.size} beside`, ...(count ? [`${count} filter${count === 1 ? '' : 's'}`] : [])].join(', ');
}

/** A button for the comparison that people want most: the language model before and after training. */
function tuned(set) {
  const language = ranked().filter(key => kind(key) === 'language model');
  if (language.length < 2) return [];
  return [h('button', {
    class: 'quiet', type: 'button', id: 'tuned', text: 'Base and fine-tuned side by side', on: { click: () => set({ model: language[0], beside: language.slice(1) }) },
  })];
}

function filterOf(column, kind, set) {
  const put = value => {
    const { [column]: _, ...others } = state.filters;
    set({ filters: value === undefined ? others : { ...others, [column]: value } });
  };
  const now = state.filters[column];
  const id = `filter-${column}`;
  if (kind === 'flag') {
    const select = h('select', { id, on: { change: () => put({ yes: true, no: false }[select.value]) } }, ...['any', 'yes', 'no'].map(text => h('option', { text })));
    select.value = now === undefined ? 'any' : now ? 'yes' : 'no';
    return h('div', { class: 'choice' }, h('label', { for: id, text: column }), select);
  }
  if (kind === 'number') {
    const bounds = ['min', 'max'].map(end => h('input', {
      type: 'number', step: 'any', id: `${id}-${end}`, value: now?.[end], placeholder: { min: 'from', max: 'to' }[end], 'aria-label': `${column}, ${{ min: 'from', max: 'to' }[end]}`,
    }));
    const read = later(400, () => {
      const value = Object.fromEntries(['min', 'max'].map((end, n) => [end, bounds[n].valueAsNumber]).filter(([, bound]) => Number.isFinite(bound)));
      put(Object.keys(value).length ? value : undefined);
    });
    for (const bound of bounds) bound.addEventListener('input', read);
    return h('div', { class: 'choice', role: 'group', 'aria-label': column }, h('span', { class: 'of', text: column }), h('span', { class: 'bounds' }, ...bounds));
  }
  const field = h('input', { id, value: now === undefined ? null : [now].flat().join(', '), placeholder: 'one or more, with commas', autocomplete: 'off' });
  field.addEventListener('input', later(600, () => {
    const values = field.value.split(',').map(value => value.trim()).filter(Boolean);
    put(values.length > 1 ? values : values[0]);
  }));
  return h('div', { class: 'choice' }, h('label', { for: id, text: column }), field);
}
