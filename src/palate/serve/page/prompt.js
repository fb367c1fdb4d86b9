// The third view: the prompt of one candidate, token by token.

import { Task, ask } from './api.js';
import { $, announce, h, plural } from './dom.js';
import { answering, candidates } from './recommend.js';
import { hasLanguage, kind, label, person } from './state.js';

const PARTS = { template: 'chat template', text: 'prompt', answer: 'answer: the part that training learns' };
const EACH = 'A language model reads one prompt for each candidate and answers at its end.';
let task, chosen = null;

export function startPrompt() {
  task = new Task($('prompt-line'));
  $('candidate').addEventListener('change', event => { chosen = offered()[event.target.selectedIndex]; load(); });
}

export const choose = item => { chosen = item; };

function offered() {
  const list = candidates();
  return chosen && !list.some(item => item.item_id === chosen.item_id) ? [chosen, ...list] : list;
}

/** Shows the prompt of the chosen candidate, or of the first recommendation. */
export function showPrompt() {
  chosen ??= candidates()[0] ?? null;
  showHead();
  $('candidate').replaceChildren(...offered().map(({ item_id, title }) => h('option', { selected: item_id === chosen.item_id, text: title })));
  $('candidate').disabled = !chosen;
  load();
}

/** Says who read this prompt: a classical model reads none. */
function showHead() {
  const { model, beside } = answering();
  const reads = key => kind(key) !== 'baseline';
  const other = reads(model) ? null : beside.find(reads) ?? null;
  const silent = `${label(model)}, which answers, is a classical model: it reads no prompt. `;
  $('prompt-title').textContent = reads(model) ? 'What the model saw' : other ? 'What the language model saw' : 'What the language model would read';
  const about = reads(model) ? '' : other ? `${silent}This is what ${label(other)} beside it saw. ` : silent;
  $('prompt-about').textContent = hasLanguage() ? `${about}${EACH}` : '';
  if (!hasLanguage()) $('prompt-title').textContent = 'No prompt';
}

async function load() {
  for (const id of ['tokens', 'legend']) $(id).hidden = true;
  $('prompt-note').textContent = '';
  const who = person();
  if (!hasLanguage()) {
    task.say('This run has no language model, so there is no prompt.');
    return;
  }
  if (!who || !chosen) {
    task.say(who ? 'No recommendation yet.' : 'Rate a title first; then choose one of the recommendations here.');
    return;
  }
  const body = { ...who, candidate: { item_id: chosen.item_id } };
  const answer = await task.run(how => ask('v1/prompt', { ...how, body }), load, ['Choose another candidate', () => $('candidate').focus()]);
  if (!answer) return;
  const count = part => answer.tokens.filter(token => token.part === part).length;
  $('legend').replaceChildren(
    ...Object.entries(PARTS).map(([part, name]) => h('span', {}, h('i', { class: `token ${part}`, text: 'abc' }), `${name}, ${plural(count(part), 'token')}`)),
    h('span', {}, h('i', { class: 'blank', text: '· ↵' }), 'space, new line'),
  );
  const isAnswer = n => answer.tokens[n]?.part === 'answer';
  $('tokens').replaceChildren(...answer.tokens.flatMap((token, n) => [
    ...(isAnswer(n) && isAnswer(n - 1) ? [h('i', { text: ' or ' })] : []), tokenOf(token),
  ]));
  const [yes, no] = [answer.yes, answer.no].map(text => `“${text.trim()}”`);
  $('prompt-note').textContent = 'At the answer’s place the model gives each token a probability. '
    + `P(like) is that of ${yes}, as a share of ${yes} and ${no} together.`;
  for (const id of ['tokens', 'legend']) $(id).hidden = false;
  announce(`Prompt for ${chosen.title}, ${plural(answer.tokens.length, 'token')}`);
}

/** A token with its blanks made visible; a new line breaks the line too. */
function tokenOf({ id, text, part }) {
  const token = h(part === 'answer' ? 'mark' : 'span', { class: `token ${part}`, title: `token ${id}` });
  for (const piece of text.split(/( |\n|\t)/)) {
    if (piece === ' ' || piece === '\n' || piece === '\t') {
      token.append(h('span', { class: 'blank', 'aria-hidden': 'true', text: { ' ': '·', '\n': '↵', '\t': '→' }[piece] }));
      if (piece === '\n') token.append('\n');
    } else if (piece) token.append(piece);
  }
  return token;
}
