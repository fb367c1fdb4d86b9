// The input of a rating: a group of radio buttons drawn as stars, or a number where the scale is not one of stars.

import { h, word } from './dom.js';
import { model } from './state.js';

/** The values that stars can give, or null for another scale. */
export function steps() {
  const [low, high] = model.scale;
  const step = low % 1 ? 0.5 : 1;
  if (low < 0.5 || low % step || high % 1 || high > 10) return null;
  return Array.from({ length: (high - low) / step + 1 }, (_, n) => low + n * step);
}

/** A rating as text, such as “4.5 of 5”. */
export const shown = rating => (steps() ? `${rating} of ${model.scale[1]}` : `${rating}`);

/** A rating to be read beside a title. */
export function starsText(rating) {
  return steps() ? `★ ${rating}` : `${rating}`;
}

let made = 0;

const sideOf = (value, step) => (step === 1 ? 'whole' : value % 1 ? 'left' : 'right');

/** Asks for a rating of an item; `give(rating)` is called for each one chosen, `leave()` on Enter. */
export function rate({ item_id, title }, rating, place, give, leave = () => {}) {
  const number = h('span', { class: 'given', 'aria-hidden': 'true', text: rating === null ? '' : `${rating}` }); // the stars say it
  const changed = value => { number.textContent = `${value}`; give(value); };
  const values = steps();
  const onEnter = event => { if (event.key === 'Enter') { event.preventDefault(); leave(); } };
  const id = `${place}-${word(item_id)}`;
  if (!values) return numbers(id, title, rating, changed, onEnter);
  const step = values[0] % 1 ? 0.5 : 1;
  const name = `stars-${made++}`;
  const group = h('fieldset', { class: 'stars', 'aria-label': `Rating of ${title}`, role: 'radiogroup', on: { keydown: onEnter } });
  for (let value = step; value < values[0]; value += step) group.append(h('span', { class: sideOf(value, step) })); // too low for the scale
  for (const value of values) {
    const radio = h('input', {
      type: 'radio', name, id: `${id}-${value}`, value, checked: value === rating,
      'aria-label': `${value} ${value === 1 ? 'star' : 'stars'}`, on: { change: () => changed(value) },
    });
    group.append(h('label', { class: sideOf(value, step), title: shown(value) }, radio));
  }
  group.addEventListener('keydown', event => {
    const typed = values.find(value => `${value}` === event.key);
    if (typed === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const radio = group.querySelector(`input[value="${typed}"]`);
    radio.checked = true;
    radio.focus();
    changed(typed);
  });
  return h('span', { class: 'rate' }, group, number);
}

function numbers(id, title, rating, changed, onEnter) {
  const [low, high] = model.scale;
  const step = high - low >= 50 ? 1 : (high - low) / 100;
  const name = `Rating of ${title}`;
  const slider = h('input', { type: 'range', id, min: low, max: high, step, 'aria-label': name, class: rating === null ? 'unset' : '' });
  const field = h('input', {
    type: 'number', id: `${id}-number`, min: low, max: high, step: 'any', 'aria-label': `${name}, as a number`, placeholder: '–',
  });
  slider.value = rating ?? (low + high) / 2;
  field.value = rating ?? '';
  const give = value => {
    if (value === '' || !(Number(value) >= low && Number(value) <= high)) return;
    slider.value = field.value = Number(value);
    slider.classList.remove('unset');
    changed(Number(value));
  };
  slider.addEventListener('change', () => give(slider.value));
  slider.addEventListener('input', () => { field.value = slider.value; });
  field.addEventListener('change', () => give(field.value));
  for (const input of [slider, field]) input.addEventListener('keydown', onEnter);
  return h('span', { class: 'rate numbers' }, slider, field);
}

/** The element of a rating that takes the focus. */
export const rateFocus = element => element.querySelector('input:checked') ?? element.querySelector('input');
