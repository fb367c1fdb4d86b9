// The page: reads what serves, then starts its three views.

import { Task, ask, useKey } from './api.js';
import { $, announce } from './dom.js';
import { showEvidence, startEvidence } from './evidence.js';
import { startOptions } from './options.js';
import { choose, showPrompt, startPrompt } from './prompt.js';
import { startRatings } from './ratings.js';
import { refresh, startRecommend } from './recommend.js';
import { model, open } from './state.js';

const VIEWS = ['recommend', 'evidence', 'prompt'];
const tabs = VIEWS.map(view => $(`tab-${view}`));
const onShow = { evidence: showEvidence, prompt: showPrompt };
let ready = false, view = 'recommend';

const named = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : 'recommend');

function show(name, focus = false) {
  view = name;
  VIEWS.forEach((other, n) => {
    $(other).hidden = !ready || other !== name;
    tabs[n].setAttribute('aria-selected', String(other === name));
    tabs[n].tabIndex = other === name ? 0 : -1;
    if (focus && other === name) tabs[n].focus();
  });
  if (name !== named()) history.pushState(null, '', name === 'recommend' ? location.pathname + location.search : `#${name}`);
  if (ready) onShow[name]?.();
}

tabs.forEach((tab, n) => {
  tab.addEventListener('click', () => show(VIEWS[n]));
  tab.addEventListener('keydown', event => {
    const to = { ArrowRight: n + 1, ArrowLeft: n + VIEWS.length - 1, Home: 0, End: VIEWS.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(VIEWS[to % VIEWS.length], true);
  });
});

document.addEventListener('key-wanted', () => {
  $('key').hidden = false;
  $('key-field').focus();
});
$('key').addEventListener('submit', event => {
  event.preventDefault();
  useKey($('key-field').value);
  $('key-field').value = '';
  $('key').hidden = true;
  $('boot').focus();
  if (ready) refresh();
  else start();
});

const boot = new Task($('boot'));

function start() {
  return boot.run(async how => {
    open(await ask('v1/model', how));
    document.title = `${model.run} · Palate`;
    $('run').textContent = model.run;
    $('run').removeAttribute('aria-label');
    if ($('boot').textContent) announce(`${model.run} is ready`); // who waits has heard that it was not
    ready = true;
    startRecommend(item => { choose(item); show('prompt', true); }, () => { if (view === 'prompt') showPrompt(); });
    startOptions(refresh);
    startEvidence();
    startPrompt();
    startRatings(refresh);
    show(view);
  });
}

addEventListener('popstate', () => show(named()));
show(named());
start();
