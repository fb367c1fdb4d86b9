// The right column: recommendations as they are scored, why, and what other models think.

import { Problem, Task, ask, events, once } from './api.js';
import { $, announce, h, later, meter, percent, plural, title, word } from './dom.js';
import { toFilters } from './options.js';
import { give } from './ratings.js';
import { rate, starsText } from './stars.js';
import { beside, chosen, hasLanguage, label, person, ranked, replace, state, user } from './state.js';

const EFFECTS = 8, MODELS = 8;
const DOWN = 'All of them can lower it: each number is the model’s answer without that one rating, and with few ratings each one left out '
  + 'makes the guess surer or less sure.';
const rows = new Map();
let task, asked = null, best = [], below = false, toPrompt, onEnd;
/** The candidates that the third view offers: the recommendations on the page. */
export const candidates = () => best;
/** The model whose answer the page shows, and those beside it. */
export const answering = () => asked ?? { model: chosen(), beside: beside() };

/** Starts the column; `prompt(item)` shows what the model saw, `end()` is called with new recommendations on the page. */
export function startRecommend(prompt, end) {
  [toPrompt, onEnd] = [prompt, end];
  task = new Task($('theirs-line'));
  $('jump').addEventListener('click', () => {
    $('theirs').scrollIntoView({ behavior: 'smooth' });
    $('theirs-title').focus({ preventScroll: true });
  });
  new IntersectionObserver(([{ isIntersecting }]) => { below = !isIntersecting; showJump(); }, { rootMargin: '0px 0px -120px' }).observe($('theirs'));
}

/** A link to the recommendations while they are below the window, as on a phone. */
function showJump() {
  $('jump').hidden = !below || person() === null;
}

/** Asks for recommendations again, once the visitor pauses. */
export const refresh = later(350, recommend);

async function recommend() {
  const held = document.activeElement;
  if (held?.matches('#recommendations input:focus-visible')) { // still choosing stars by keyboard
    return held.addEventListener('blur', refresh, { once: true });
  }
  const who = person();
  $('empty').hidden = who !== null;
  showJump();
  if (!who) return clear();
  const number = Math.min(100, state.top + state.dismissed.length);
  asked = { ...who, model: chosen(), beside: beside() };
  const body = { ...asked, top_k: number, filters: state.filters, retriever: state.retriever, stream: true };
  const list = $('recommendations');
  list.setAttribute('aria-busy', 'true');
  list.style.setProperty('--models', 1 + asked.beside.length);
  if (list.children.length) list.classList.add('stale'); // until the first ones are scored
  else place([], state.top);
  $('theirs-note').textContent = `Scored by ${label(asked.model)}.`;
  closeAll();
  progress(0, 0);
  const amend = Object.keys(state.filters).length ? ['Change the filters', toFilters] : ['Change the ratings', () => $('query').focus()];
  const answer = await task.run(how => read(body, how), recommend, amend);
  progress(0, 0);
  if (task.controller) return undefined; // a later request took over
  list.setAttribute('aria-busy', 'false');
  if (!answer) {
    $('theirs-note').textContent = '';
    return list.querySelectorAll('.waiting').forEach(node => node.remove());
  }
  place(answer.recommendations.filter(scored => !state.dismissed.includes(scored.item_id)).slice(0, state.top), 0);
  return finish(answer);
}

/** Shows the best scored so far while the stream lasts; returns its end. */
async function read(body, how) {
  let scored = [];
  const dismissed = new Set(state.dismissed);
  for await (const [name, data] of events('v1/recommend', { ...how, body })) {
    if (name === 'error') throw new Problem(data.status, data.title, data.detail);
    if (name === 'end') return data;
    if (name === 'start') how.tell(`Scoring ${plural(data.candidates, 'candidate')} …`);
    if (name !== 'scored') continue;
    scored = [...scored, ...data.items.filter(item => !dismissed.has(item.item_id))].sort((a, b) => b.p - a.p).slice(0, state.top);
    place(scored, state.top);
    progress(data.done, data.of);
    how.tell(`Scored ${data.done} of ${data.of}`);
  }
  throw new Problem(0, 'The connection broke', 'the answer is incomplete');
}

function finish(answer) {
  const by = answer.retriever && answer.retriever !== 'all' ? ` that ${answer.retriever === 'classical' ? 'the ' : ''}${$('retriever').selectedOptions[0].text} found` : '';
  const left = answer.left_out ? `; ${plural(answer.left_out, 'rated item')} left out` : '';
  const note = $('theirs-note');
  note.textContent = `The best of ${plural(answer.candidates, 'candidate')}${by}, scored by ${answer.label} `
    + `from ${plural(answer.ratings, 'rating')}${left}. `
    + (answer.calibrated ? '' : 'This model is not calibrated: trust the order, not the probability. ');
  if (state.dismissed.length && !user) { // the service leaves out a known user's
    const text = `Show ${plural(state.dismissed.length, 'dismissed item')} again`;
    note.append(h('button', { class: 'quiet', text, on: { click: () => { replace({ dismissed: [] }); refresh(); } } }));
  }
  if (!best.length) {
    const filtered = Object.keys(state.filters).length > 0;
    task.say(filtered ? 'No item passes these filters together.' : 'No candidate was found.', filtered ? ['Change the filters', toFilters] : undefined);
    return announce($('theirs-line').firstChild.textContent);
  }
  announce(`${plural(best.length, 'recommendation')}. First: ${best[0].title}, ${percent(best[0].p)}`);
  tell('shown', best);
  return onEnd();
}

function clear() {
  task.stop();
  task.say('');
  progress(0, 0);
  asked = null;
  place([], 0);
  $('theirs-note').textContent = '';
}

function progress(done, of) {
  for (const place of ['progress', 'jump']) $(place).firstChild.style.transform = `scaleX(${of ? done / of : 0})`;
  $('jump').lastChild.textContent = of ? `Recommendations, ${done} of ${of} scored ↓` : 'Recommendations ↓';
}

/** Tells the server what happened to recommendations of a known user; the page does not wait for it. */
function tell(event, items) {
  if (!user) return;
  const now = id => best.find(other => other.item_id === id)?.p;
  const events = items.map(({ item_id }) => ({ event, user_id: user.user_id, item_id, model: asked.model, p: now(item_id) }));
  ask('v1/events', { body: { key: once(), events } }).catch(() => {});
}

/** Puts the rows in order, keeping each row's element; blank ones hold the room of those to come. */
function place(scored, room) {
  const list = $('recommendations');
  list.classList.remove('stale');
  best = scored;
  const nodes = scored.map((item, n) => {
    const key = word(item.item_id);
    if (!rows.has(key)) rows.set(key, rowOf(item));
    fill(rows.get(key), item, n);
    return rows.get(key);
  });
  const held = document.activeElement;
  const at = [...list.children].findIndex(node => node.contains(held));
  const old = list.children[at];
  const stays = room > 0 && old && !nodes.includes(old); // the row with the focus, until the end
  if (stays) old.classList.add('stale');
  for (let n = nodes.length; n < room; n++) nodes.push(stays && n === at ? old : h('li', { class: 'waiting', 'aria-hidden': 'true' }));
  if (stays && !nodes.includes(old)) nodes.push(old);
  const before = new Map([...list.children].map(node => [node, node.offsetTop]));
  const kept = new Set(nodes);
  for (const node of [...list.children]) if (!kept.has(node)) node.remove();
  nodes.forEach((node, n) => {
    const there = list.children[n];
    if (there === node) return;
    if (node.parentNode === list && list.moveBefore) list.moveBefore(node, there ?? null);
    else list.insertBefore(node, there ?? null);
  });
  if (held !== document.activeElement) { // moved, or gone: then the row in its place has the focus
    const heir = list.contains(held) ? held : list.children[at]?.querySelector('[aria-expanded]');
    heir?.focus({ preventScroll: true });
  }
  for (const [key, node] of rows) if (!kept.has(node)) rows.delete(key);
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) return;
  for (const node of nodes) {
    const by = before.has(node) ? before.get(node) - node.offsetTop : 0;
    if (by) node.animate([{ transform: `translateY(${by}px)` }, {}], { duration: 260, easing: 'cubic-bezier(.2, 0, 0, 1)' });
  }
}

function rowOf(item) {
  const key = word(item.item_id);
  const panel = h('div', { class: 'panel', id: `panel-${key}`, hidden: true });
  const button = (text, click, more) => h('button', { class: 'quiet', text, 'aria-label': `${text} ${item.title}`, on: { click }, ...more });
  const why = button('Why?', () => toggle(node, item), { id: `why-${key}`, 'aria-expanded': 'false', 'aria-controls': panel.id });
  const actions = h(
    'div', { class: 'actions' }, rate(item, null, 'theirs', rating => give(item, rating), () => why.focus()), why,
    hasLanguage() ? button('Prompt', () => toPrompt(item)) : null, button('Dismiss', () => dismiss(item)),
  );
  const node = h('li', { class: 'rec' }, h('span', { class: 'rank' }), h('h3', {}, title(item.title)), actions, h('dl', { class: 'models' }), panel);
  return node;
}

function fill(node, item, n) {
  node.classList.remove('stale');
  node.querySelector('.rank').textContent = n + 1;
  const scores = [[asked.model, item.p], ...asked.beside.map(key => [key, item.beside[key]])];
  node.querySelector('.models').replaceChildren(...scores.map(([key, p], n) => modelRow(key, p, n === 0)));
}

const modelRow = (key, p, main = false) => h(
  'div', { class: main ? 'main' : '' }, h('dt', { text: label(key), title: label(key) }),
  h('dd', {}, p === undefined ? h('span', { text: '–' }) : meter(p), h('span', { class: 'number', text: p === undefined ? '' : percent(p) })),
);

function dismiss(item) {
  const place = best.findIndex(other => other.item_id === item.item_id);
  tell('dismissed', [item]);
  replace({ dismissed: [...state.dismissed, item.item_id] });
  const next = best[place + 1] ?? best[place - 1];
  if (next) $(`why-${word(next.item_id)}`)?.focus();
  announce(`Dismissed ${item.title}`);
  refresh();
}

function closeAll() {
  for (const node of rows.values()) close(node);
}

function close(node) {
  node.tasks?.forEach(task => task.stop());
  node.querySelector('.panel').hidden = true;
  node.querySelector('[aria-expanded]').setAttribute('aria-expanded', 'false');
}

/** Opens or closes the panel of one recommendation: its reasons, and every model's answer. */
function toggle(node, item) {
  const panel = node.querySelector('.panel');
  if (!panel.hidden) return close(node);
  panel.hidden = false;
  node.querySelector('[aria-expanded]').setAttribute('aria-expanded', 'true');
  const heads = [user ? `Ratings of user ${user.user_id} that move it` : 'Your ratings that move it', 'Every model'];
  panel.replaceChildren(...heads.map(text => h('section', {}, h('h4', { text }), h('p', { class: 'line' }), h('div'))));
  const { model: key, beside: _, ...who } = asked;
  const candidate = { item_id: item.item_id };
  const every = ranked().filter(other => other !== key).slice(0, 30);
  const load = (section, path, body, view) => {
    const task = new Task(section.querySelector('.line'));
    task.run(async how => section.lastChild.replaceChildren(view(await ask(path, { ...how, body: { ...who, model: key, ...body } }))));
    return task;
  };
  node.tasks = [
    load(panel.firstChild, 'v1/explain', { candidate }, answer => { announce(`Reasons for ${item.title}`); return effects(answer); }),
    load(panel.lastChild, 'v1/score', { candidates: [candidate], beside: every }, ({ scores: [score] }) => others(key, every, score)),
  ];
  return tell('clicked', [item]);
}

/** What each model says of an item: the first ones, and the rest folded. */
function others(key, every, score) {
  const all = [modelRow(key, score.p, true), ...every.map(other => modelRow(other, score.beside[other]))];
  const more = all.splice(MODELS);
  const fold = h('details', {}, h('summary', { text: `${more.length} more` }), h('dl', { class: 'models' }, ...more));
  return h('div', {}, h('dl', { class: 'models' }, ...all), more.length ? fold : null);
}

/** The ratings that move a score most, as bars to the right (up) or left (down). */
function effects({ score, effects: all }) {
  const sorted = [...all].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  const moving = sorted.filter(effect => Math.abs(effect.effect) >= 0.005).slice(0, EFFECTS);
  if (!moving.length) return h('p', { class: 'note', text: 'No single rating moves this score.' });
  const widest = Math.abs(moving[0].effect);
  const list = h('ul', { class: 'effects' }, ...moving.map(effect => {
    const up = effect.effect > 0;
    const bar = h('i', { class: up ? 'up' : 'down' });
    bar.style.width = `${50 * Math.abs(effect.effect) / widest}%`;
    return h(
      'li', {}, h('span', { class: 'what' }, title(effect.title), h('span', { class: 'aside', text: starsText(effect.rating) })),
      h('span', { class: 'sway', 'aria-hidden': 'true' }, bar),
      h(
        'span', { class: 'without' }, h('b', { class: up ? 'good' : 'bad', 'aria-hidden': 'true', text: up ? '▲' : '▼' }),
        h('span', { class: 'unseen', text: up ? 'raises it:' : 'lowers it:' }), ` ${percent(effect.p_without)} without`,
      ),
    );
  }));
  const rest = all.length - moving.length;
  const less = rest ? `; ${rest} more of the last ${all.length} move it less` : '';
  const down = moving.length > 1 && moving.every(effect => effect.effect < 0) ? ` ${DOWN}` : '';
  return h('div', {}, list, h('p', { class: 'note', text: `${percent(score.p)} with all of them. Each rating was left out in turn${less}.${down}` }));
}
