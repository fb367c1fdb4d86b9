// Elements made from values. Text of items goes through textContent only: titles are not trusted.

export const $ = id => document.getElementById(id);

/** Makes an element: `on` are listeners, `class` and `text` as named, the rest attributes; false and null are left out. */
export function h(tag, { on = {}, text, class: name, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value === true ? '' : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

/** A title, whose writing direction stays within it. */
export const title = (text, name = 'title') => h('bdi', { class: name, dir: 'auto', text });

export const percent = p => (p > 0 && p < 0.01 ? '< 1 %' : p > 0.99 && p < 1 ? '> 99 %' : `${Math.round(100 * p)} %`);

export const plural = (n, one) => `${n.toLocaleString('en')} ${one}${n === 1 ? '' : 's'}`;

/** How well a model sorts the test rows: “AUC 0.849 on 8,272 rows”; empty where it was not evaluated. */
export function accuracy({ auc, rows }) {
  if (typeof auc !== 'number') return '';
  return `AUC ${auc.toFixed(3)}${rows ? ` on ${plural(rows, 'row')}` : ''}`;
}

/** A bar from 0 to 1; its number stands beside it as text. */
export function meter(value, name = '') {
  const bar = h('i');
  bar.style.width = `${100 * value}%`;
  return h('span', { class: `meter ${name}`, 'aria-hidden': 'true' }, bar);
}

/** Tells a screen reader, politely. */
export function announce(text) {
  $('live').textContent = '';
  setTimeout(() => { $('live').textContent = text; }, 50);
}

const names = new Map();

/** A word for an item's id that may stand in an element's id. */
export function word(id) {
  const key = `${typeof id} ${id}`;
  if (!names.has(key)) names.set(key, names.size);
  return names.get(key);
}

/** Runs a change of the page, and gives the focus back to the element of the same id if it was made anew. */
export function keepFocus(change) {
  const held = document.activeElement?.id;
  change();
  if (held && document.activeElement?.id !== held) $(held)?.focus({ preventScroll: true });
}

/** Waits for a pause in the calls, then calls once. */
export function later(milliseconds, call) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(call, milliseconds); };
}
