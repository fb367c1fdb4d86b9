// What the visitor gave: ratings, an opened user, and choices. It survives a reload, one entry for each run.

const VERSION = 1, MOST = 2000; // ratings that a request may hold

const blank = () => ({
  version: VERSION, user: null, history: [], dismissed: [], model: null, beside: null, filters: {}, retriever: 'classical', top: 10,
});

/** What `GET /v1/model` answers; set once at the start. */
export let model = null;
export let state = blank();
/** The opened user, as `GET /v1/users/{id}` answers, or null for the visitor's own ratings. */
export let user = null;

const store = () => `palate:${model.run}`;
const isId = id => typeof id === 'number' || (typeof id === 'string' && id !== '');
const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The sound parts of a stored entry; what an older page or another program wrote is left out. */
function sound(entry) {
  const kept = blank();
  if (!isObject(entry) || entry.version !== VERSION) return kept;
  const [low, high] = model.scale;
  if (isId(entry.user)) kept.user = entry.user;
  const seen = new Set();
  for (const row of Array.isArray(entry.history) ? entry.history : []) {
    if (!isObject(row) || !isId(row.item_id) || typeof row.title !== 'string' || seen.has(row.item_id)) continue;
    if (row.rating !== null && !(row.rating >= low && row.rating <= high)) continue;
    seen.add(row.item_id);
    kept.history.push({ item_id: row.item_id, title: row.title, rating: row.rating });
  }
  if (Array.isArray(entry.dismissed)) kept.dismissed = entry.dismissed.filter(isId);
  const keys = model.models.map(entry => entry.key);
  if (keys.includes(entry.model)) kept.model = entry.model;
  if (Array.isArray(entry.beside)) kept.beside = entry.beside.filter(name => keys.includes(name));
  for (const [column, value] of Object.entries(isObject(entry.filters) ? entry.filters : {})) {
    if (column in model.filters) kept.filters[column] = value;
  }
  if (['classical', 'item-knn', 'popularity', 'all'].includes(entry.retriever)) kept.retriever = entry.retriever;
  if ([10, 20, 50].includes(entry.top)) kept.top = entry.top;
  return kept;
}

export function open(answer) {
  model = answer;
  try {
    state = sound(JSON.parse(localStorage.getItem(store())));
  } catch {
    state = sound(null); // broken, or storage is forbidden
  }
}

export function save() {
  try { localStorage.setItem(store(), JSON.stringify(state)); } catch { /* full or forbidden: the page works without */ }
}

/** Replaces the state, and returns the earlier one. */
export function replace(changed) {
  const earlier = state;
  state = { ...state, ...changed };
  save();
  return earlier;
}

export function setUser(answer) {
  user = answer;
  const id = answer?.user_id ?? null;
  if (id !== state.user) replace({ user: id, dismissed: [] });
}

/** Ratings, oldest first: the opened user's, or the visitor's with null where the stars are still empty. */
export const ratings = () => (user ? user.ratings : state.history);

/** Who asks, as every request names them; null for a visitor without a rating. */
export function person() {
  if (user) return { user_id: user.user_id };
  const history = state.history.filter(row => row.rating !== null).slice(-MOST).map(({ item_id, rating }) => ({ item_id, rating }));
  return history.length ? { history } : null;
}

export const chosen = () => state.model ?? model.default;
export const label = key => model.models.find(entry => entry.key === key)?.label ?? key;

/** Keys of the models: those with a language model, then classical ones, the best on the test rows first. */
export function ranked() {
  const place = ({ kind, auc }) => (kind === 'baseline' ? auc ?? 0 : 2 + (auc ?? 0));
  return [...model.models].sort((a, b) => place(b) - place(a)).map(entry => entry.key);
}

/** Models shown beside the chosen one: those that the visitor ticked, or the best other baseline and the item's mean. */
export function beside() {
  const [best, ...others] = ranked().filter(key => key !== chosen() && kind(key) === 'baseline');
  return state.beside?.filter(key => key !== chosen()) ?? [best, others.includes('item-mean') ? 'item-mean' : others[0]].filter(Boolean);
}

export const hasLanguage = () => model.models.some(entry => entry.kind === 'language model');
export const kind = key => model.models.find(entry => entry.key === key)?.kind;
