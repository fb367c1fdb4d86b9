// The left column: the visitor's ratings, or an opened user's.

import { Task, ask, once } from './api.js';
import { $, announce, h, keepFocus, plural, title, word } from './dom.js';
import { startSearch } from './search.js';
import { rate, rateFocus, shown } from './stars.js';
import { model, person, ratings, replace, setUser, state, user } from './state.js';

const SHORT = { wide: 12, narrow: 5 }, FEW = 12, POPULAR = 6, POOL = 24, ENOUGH = 4;
const narrow = matchMedia('(max-width: 1120px)'); // as in style.css: the columns stand below each other
let changed, all = false, popular = null;
const line = {}, storing = new Map();

/** Starts the column; `change()` is called whenever the ratings are others. */
export function startRatings(change) {
  changed = change;
  for (const name of ['yours', 'user']) line[name] = new Task($(`${name}-line`));
  startSearch(add);
  $('all').addEventListener('click', () => { all = !all; show(); });
  $('again').addEventListener('click', startAgain);
  $('user').addEventListener('submit', event => { event.preventDefault(); openUser($('user-id').value.trim()); });
  narrow.addEventListener('change', () => keepFocus(show));
  loadPopular();
  if (state.user === null) update();
  else openUser(state.user).then(() => { if (!user) update(); });
}

const short = () => (narrow.matches ? SHORT.narrow : SHORT.wide);

/** Popular items to begin with: the first stage's, scored by a classical model, as that is quick. */
async function loadPopular() {
  const quick = model.models.find(entry => entry.kind === 'baseline');
  const body = { history: [], retriever: 'popularity', retrieve: POOL, top_k: POOL, model: quick?.key };
  popular = await ask('v1/recommend', { body }).then(answer => answer.recommendations, () => []);
  showPopular();
}

/** Changes the ratings in a way that can be undone. */
function undoable(text, changes, opened = user) {
  const before = user;
  const earlier = replace(changes);
  setUser(opened);
  update();
  announce(text);
  line.yours.say(text, ['Undo', () => {
    replace(earlier);
    setUser(before);
    line.yours.say('');
    update();
  }]);
}

function startAgain() {
  if (user) undoable(`User ${user.user_id} is closed.`, {}, null);
  else undoable('Cleared.', { history: [], dismissed: [] });
  $('query').focus();
}

async function openUser(id) {
  if (id === '') return;
  const amend = () => { $('user-id').value = id; $('user-id').select(); };
  const answer = await line.user.run(
    how => ask(`v1/users/${encodeURIComponent(id)}`, how), () => openUser(id), ['Change the id', amend],
  );
  if (!answer) return;
  setUser(answer);
  all = false;
  $('user-id').value = '';
  line.yours.say('');
  update();
  announce(`User ${id} is open, ${plural(answer.ratings.length, 'rating')}`);
}

function update() {
  show();
  changed();
}

/** Adds an item without a rating at the top, and asks for its stars. */
export function add(item) {
  if (!ratings().some(row => row.item_id === item.item_id)) {
    const row = { item_id: item.item_id, title: item.title, rating: null };
    if (user) user.ratings.push(row);
    else replace({ history: [...state.history, row] });
    line.yours.say('');
  }
  all ||= ratings().findIndex(row => row.item_id === item.item_id) < ratings().length - short();
  show();
  rateFocus($(rowId(item)))?.focus();
}

/** Gives an item a rating: stores it for a user, keeps it here for a visitor. */
export function give(item, rating) {
  const row = ratings().find(row => row.item_id === item.item_id);
  if (row) row.rating = rating;
  else ratings().push({ item_id: item.item_id, title: item.title, rating });
  replace({ history: state.history });
  keepFocus(show);
  if (user) store(item, rating);
  else changed();
}

/** Stores a user's rating once the visitor pauses: arrow keys pass several values. */
function store(item, rating) {
  const opened = user;
  clearTimeout(storing.get(item.item_id));
  const body = { key: once(), ratings: [{ user_id: opened.user_id, item_id: item.item_id, rating }] };
  const task = new Task($('yours-line'));
  const send = async () => {
    const amend = ['Change the rating', () => rateFocus($(rowId(item)))?.focus()];
    if (!await task.run(how => ask('v1/ratings', { ...how, body }), send, amend)) return;
    task.say(`Stored: ${shown(rating)} for ${item.title}.`);
    if (user !== opened) return;
    user.ratings.find(row => row.item_id === item.item_id).stored = true;
    keepFocus(update);
  };
  storing.set(item.item_id, setTimeout(send, 600));
}

function move(row, by) {
  const history = [...state.history];
  const from = history.indexOf(row), to = from + by;
  if (to < 0 || to >= history.length) return;
  history.splice(to, 0, ...history.splice(from, 1));
  replace({ history });
  keepFocus(update);
  announce(`${row.title}, place ${history.length - to} of ${history.length} from the newest`);
}

function remove(row) {
  const place = state.history.indexOf(row);
  undoable(`Removed ${row.title}.`, { history: state.history.filter(other => other !== row) });
  const next = state.history[Math.min(place, state.history.length - 1)];
  (next ? $(`remove-${word(next.item_id)}`) : $('query'))?.focus();
}

const rowId = ({ item_id }) => `row-${word(item_id)}`;

function rowOf(row, n, count) {
  const id = word(row.item_id);
  const button = (name, sign, says, call, off, what = '') => h('button', {
    class: 'icon', id: `${name}-${id}`, 'aria-label': `${says} ${row.title}${what}`, title: says + what, 'aria-disabled': off && 'true',
    on: { click: call }, text: sign,
  });
  const own = user === null;
  const stars = rate(row, row.rating, 'yours', rating => give(row, rating), () => $('query').focus());
  const note = row.rating === null ? 'your rating?' : row.stored ? 'new' : '';
  const item = h(
    'li', { id: rowId(row), class: row.rating === null ? 'unrated' : '' },
    h('span', {}, title(row.title), note ? h('span', { class: 'ask', text: note }) : null),
    own ? button('remove', '×', 'Remove', () => remove(row)) : null,
    h('span', { class: 'under' }, stars),
    own ? h(
      'span', { class: 'order' }, button('up', '↑', 'Move up', () => move(row, 1), n === 0, ': read later'),
      button('down', '↓', 'Move down', () => move(row, -1), n === count - 1, ': read earlier'),
    ) : null,
  );
  if (own) {
    item.addEventListener('keydown', event => {
      const by = event.altKey ? { ArrowUp: 1, ArrowDown: -1 }[event.key] : undefined;
      if (by) { event.preventDefault(); move(row, by); }
    });
  }
  return item;
}

function showHead() {
  const rated = ratings().filter(row => row.rating !== null).length;
  $('yours-title').textContent = user ? `User ${user.user_id}` : 'Your ratings';
  $('again').hidden = !user && !state.history.length;
  $('again').textContent = user ? 'Close' : 'Start again';
  const order = rated > 1 ? 'Newest first. The model reads them oldest first. ' : '';
  const note = user ? `${plural(rated, 'rating')}. ${order}` : order;
  $('yours-note').replaceChildren(note);
  if (user) $('yours-note').append(h('button', { class: 'quiet', text: 'Try changes on a copy', on: { click: copy } }));
}

/** Makes an opened user's ratings the visitor's own, which may be removed and reordered. */
function copy() {
  const rated = user.ratings.filter(row => row.rating !== null);
  const last = new Map(rated.map((row, n) => [row.item_id, n])); // a log may have an item twice
  const given = rated.filter((row, n) => last.get(row.item_id) === n);
  const history = given.map(({ item_id, title, rating }) => ({ item_id, title, rating }));
  undoable('A copy: changes are not stored.', { history, dismissed: [] }, null);
  $('query').focus();
}

export function show() {
  showHead();
  const rows = [...ratings()].reverse();
  const visible = all ? rows : rows.slice(0, short());
  $('rated').replaceChildren(...visible.map((row, n) => rowOf(row, n, rows.length)));
  $('all').hidden = rows.length <= short();
  $('all').textContent = all ? 'Show fewer' : `Show all ${rows.length}`;
  $('recommend').classList.toggle('begin', person() === null && !state.history.length);
  showPopular();
}

function showPopular() {
  const rated = new Set(ratings().map(row => row.item_id));
  const offered = user ? [] : (popular ?? []).filter(item => !rated.has(item.item_id)).slice(0, POPULAR);
  const list = $('popular').querySelector('ul');
  $('popular').hidden = (popular && !offered.length) || user !== null || rated.size >= FEW;
  list.classList.toggle('loading', !popular); // keeps the room
  if (rated.size === ENOUGH) $('popular').open = false;
  list.replaceChildren(...offered.map(item => h(
    'li', {}, title(item.title), h('span', { class: 'under' }, rate(item, null, 'popular', rating => {
      give(item, rating);
      rateFocus($(rowId(item)))?.focus({ preventScroll: true });
    })),
  )));
}
