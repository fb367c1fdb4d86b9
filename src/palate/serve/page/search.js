// Search by title: a combobox with a list, by mouse or keyboard (WAI-ARIA's pattern “list autocomplete with manual selection”).

import { Task, ask } from './api.js';
import { $, announce, h, later, plural, title } from './dom.js';
import { model, ratings } from './state.js';
import { starsText } from './stars.js';

const FOUND = 8;

/** Columns that say what an item is: lists such as genres, three of each. */
function aside(columns) {
  const lists = Object.entries(columns).filter(([column, value]) => model.filters[column] === 'list' && value);
  return lists.map(([, value]) => (Array.isArray(value) ? value : `${value}`.split(/\s*[|,]\s*/)).slice(0, 3).join(', ')).join(' · ');
}

/** Starts the search; `add(item)` is called for a chosen one. */
export function startSearch(add) {
  const input = $('query'), list = $('found');
  const task = new Task($('search-line'));
  let items = [], active = -1, shownFor = '', hurried = false; // hurried: Enter came before the answer

  function close() {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    mark(-1);
  }

  function mark(n) {
    active = n;
    [...list.children].forEach((option, k) => option.setAttribute('aria-selected', String(k === n)));
    if (n < 0) input.removeAttribute('aria-activedescendant');
    else input.setAttribute('aria-activedescendant', list.children[n].id);
    list.children[n]?.scrollIntoView({ block: 'nearest' });
  }

  function choose(item) {
    input.value = '';
    hurried = false;
    close();
    add(item);
  }

  function show() {
    const rated = new Map(ratings().map(row => [row.item_id, row.rating]));
    list.replaceChildren(...items.map((item, n) => {
      const given = rated.get(item.item_id) ?? null;
      const on = { mousedown: event => event.preventDefault(), click: () => choose(item) }; // the focus stays in the field
      return h(
        'li', { role: 'option', id: `found-${n}`, 'aria-selected': 'false', on },
        title(item.title), h('span', { class: 'aside', text: given === null ? aside(item.columns) : starsText(given) }),
      );
    }));
    list.hidden = items.length === 0;
    input.setAttribute('aria-expanded', String(items.length > 0));
    mark(-1);
    announce(items.length ? `${plural(items.length, 'title')} found` : 'No title found');
    if (!items.length) task.say(`No title is like “${input.value.trim()}”.`);
  }

  const look = later(150, async () => {
    const query = input.value.trim();
    if (!query) return undefined;
    const answer = await task.run(how => ask(`v1/items?q=${encodeURIComponent(query)}&limit=${FOUND}`, how), look, ['Change the search', () => input.select()]);
    if (!answer || input.value.trim() !== query) return undefined;
    items = answer.items;
    shownFor = query;
    if (hurried && items.length) return choose(items[0]);
    hurried = false;
    return document.activeElement === input ? show() : undefined;
  });

  input.addEventListener('input', () => {
    hurried = false;
    if (input.value.trim()) look();
    else { task.stop(); task.say(''); items = []; close(); }
  });
  input.addEventListener('focus', () => { if (input.value.trim()) look(); });
  input.addEventListener('blur', close);
  input.addEventListener('keydown', event => {
    if (event.isComposing) return;
    const n = list.hidden ? 0 : items.length;
    if (event.key === 'ArrowDown' && n) mark((active + 1) % n);
    else if (event.key === 'ArrowUp' && n) mark(active <= 0 ? n - 1 : active - 1);
    else if (event.key === 'ArrowDown' && input.value.trim()) look();
    else if (event.key === 'Enter' && input.value.trim() && input.value.trim() !== shownFor) { hurried = true; look(); }
    else if (event.key === 'Enter' && n) choose(items[Math.max(active, 0)]);
    else if (event.key === 'Escape') { if (n) close(); else { input.value = ''; task.say(''); } } else return;
    event.preventDefault();
  });
}
