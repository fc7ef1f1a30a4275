// Panels that keep themselves current: the event stream says what changed, and each panel fetches itself.
//
// One stream for each browser, because HTTP/1.1 gives it six connections: the visible tab that holds the lock reads it
// and hands its signals to the others by BroadcastChannel. A slow poll heals what a signal did not reach. Where there
// is no stream, or no lock (plain HTTP on a name other than localhost), panels poll at their own pace.
import { $, $$, kept } from "./dom.js";
import { isSelected, release } from "./morph.js";

// Milliseconds.
const HEALS_EVERY = 30_000;
const AT_MOST_EVERY = 1_000;
const TOGETHER = 300; // signals that come within this are one
const SILENT_FOR = 30_000; // a stream that says nothing for so long is dead: the server's beat is 12 s
const BACK_WITHIN = 30_000;
const CONNECTS_WITHIN = 4_000; // before the button says that there is no stream

const button = $("#live");
const pill = $("#disconnected");
const favicon = $("#favicon");
const began = performance.now();
const timings = new Map(); // panel id → { due, asked, took, isAsking }
let isPaused = kept("switchboard-paused") === "1";
let isStreaming = false;
let isAnswered = true;

const later = (delay) => performance.now() + delay * (0.85 + 0.3 * Math.random());
const pace = (panel) => (isStreaming ? HEALS_EVERY : Number(panel.dataset.every) * 1000);

// ---- who asks when ----------------------------------------------------------------------------------------------
const timing = (panel) => {
  if (!timings.has(panel.id)) timings.set(panel.id, { due: later(pace(panel)), asked: began, took: 0, isAsking: false });
  return timings.get(panel.id);
};

const turn = () => {
  showState();
  if (document.hidden || isPaused) return;
  release();
  for (const panel of $$("[data-live]")) {
    const at = timing(panel);
    at.due = Math.min(at.due, performance.now() + pace(panel) * 1.2);
    if (at.isAsking || performance.now() < at.due || isSelected(panel)) continue;
    at.isAsking = true;
    at.asked = performance.now();
    at.due = later(pace(panel));
    htmx.trigger(panel, "refresh");
  }
};

const hasChanged = (concerns, isCount = false) => {
  for (const panel of $$("[data-live]")) {
    if (!concerns(panel)) continue;
    const at = timing(panel);
    // Counts come every second while anything is delivered: for them alone a panel keeps its own pace. And a slow
    // answer is asked for less often, so that many tabs cannot wear a server out.
    const gap = Math.max(isCount ? 1000 * panel.dataset.every : AT_MOST_EVERY, 10 * at.took);
    at.due = Math.min(at.due, Math.max(performance.now() + TOGETHER * Math.random(), at.asked + gap));
  }
};
const everythingHasChanged = () => hasChanged(() => true);

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { pathname } = new URL(detail.xhr.responseURL || location.href, location.href);
  if (!pathname.startsWith("/login/")) return;
  detail.shouldSwap = false; // signed out meanwhile: the login page is no fragment
  location.reload();
});

document.addEventListener("htmx:afterRequest", ({ detail: { elt, xhr } }) => {
  if (!elt.matches?.("[data-live]") && !timings.has(elt.id)) return;
  const at = timing(elt);
  at.isAsking = false;
  at.took = performance.now() - at.asked;
  const wasAnswered = isAnswered;
  isAnswered = xhr.status > 0 && xhr.status < 500;
  if (isAnswered && !wasAnswered) everythingHasChanged();
  const trouble = xhr.getResponseHeader?.("X-Switchboard-Trouble");
  if (trouble) showTrouble(Number(trouble));
  showState();
});

// ---- the stream -------------------------------------------------------------------------------------------------
const channel = "BroadcastChannel" in window ? new BroadcastChannel("switchboard-live") : null;
let leading = null; // aborts when this tab reads the stream no longer

const tell = (message) => {
  channel.postMessage(message);
  hear(message);
};

const hear = (message) => {
  if (message.isUp !== undefined) {
    isStreaming = message.isUp;
    document.documentElement.dataset.stream = isStreaming ? "up" : "down";
    if (message.isNew) everythingHasChanged();
    showState();
  }
  for (const [topic, service] of message.changes || []) {
    const concerns = ({ dataset: { live, service: own } }) =>
      live.split(" ").includes(topic) && (!own || !service || own === service);
    hasChanged(concerns, topic === "messages");
  }
};

const lead = async (signal) => {
  for (let wait = 1000; !signal.aborted; wait = Math.min(2 * wait, BACK_WITHIN)) {
    try {
      await follow(signal, () => { wait = 1000; });
    } catch {
      // refused, cut off or silent: panels poll until it is back
    }
    if (signal.aborted) return;
    tell({ isUp: false });
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())));
  }
};

/** Reads one stream to its end. Not an EventSource, which hears only types that it knows and is never told of beats. */
const follow = async (leaving, onHello) => {
  const silence = new AbortController();
  const stop = () => silence.abort();
  let timer = setTimeout(stop, SILENT_FOR);
  leaving.addEventListener("abort", stop);
  try {
    const answer = await fetch("/api/v1/events", { cache: "no-store", signal: silence.signal });
    if (!answer.ok) throw new Error(answer.statusText);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENT_FOR);
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      const changes = frames.map(changeIn).filter(Boolean);
      if (changes.some(([topic]) => topic === "hellos")) {
        onHello();
        tell({ isUp: true, isNew: true }); // what happened before is not told
      } else if (changes.length) tell({ changes });
    }
  } finally {
    clearTimeout(timer);
    leaving.removeEventListener("abort", stop);
  }
};

/** The topic of an event and its service: `event: breaker.opened` is of "breakers". */
const changeIn = (frame) => {
  const type = /^event: ([a-z]+)/m.exec(frame)?.[1];
  const data = /^data: (.*)$/m.exec(frame)?.[1];
  return type && [type.endsWith("s") ? type : `${type}s`, data && JSON.parse(data).service];
};

const compete = () => {
  if (leading || document.hidden || !channel || !navigator.locks || !window.TextDecoderStream) return;
  leading = new AbortController();
  const { signal } = leading;
  navigator.locks.request("switchboard-live", { signal }, () => lead(signal)).catch(() => {});
};
const retire = () => {
  leading?.abort();
  leading = null;
};

channel?.addEventListener("message", ({ data }) => {
  if (data.asks) {
    if (leading && isStreaming) channel.postMessage({ isUp: true });
  } else hear(data);
});

const goOn = () => {
  if (document.hidden) return retire();
  compete();
  channel?.postMessage({ asks: true });
  everythingHasChanged();
};
document.addEventListener("visibilitychange", goOn);
addEventListener("pagehide", retire);
addEventListener("pageshow", (event) => event.persisted && goOn());

// ---- what it says -----------------------------------------------------------------------------------------------
const state = () => {
  if (isPaused) return "paused";
  if (!isAnswered) return "disconnected";
  return isStreaming || performance.now() - began < CONNECTS_WITHIN ? "live" : "polling";
};
const WORDS = { live: "Live", polling: "Polling", paused: "Paused", disconnected: "Disconnected" };

const showState = () => {
  const now = state();
  if (!button || button.dataset.state === now) return;
  button.dataset.state = now;
  $(".word", button).textContent = WORDS[now];
  $(".visually-hidden", button).textContent = isPaused ? ": go on with updates" : ": pause updates";
  pill.hidden = now !== "disconnected";
  showTrouble();
};

/** Title and icon carry the state: how many services are down, or that what is seen here may be old. */
let down = Number(favicon?.dataset.down || 0);
const showTrouble = (count = down) => {
  down = count;
  const title = document.title.replace(/^\d+ down · /, "");
  document.title = down ? `${down} down · ${title}` : title;
  const href = favicon?.dataset[!isAnswered ? "stale" : down ? "trouble" : "calm"];
  if (favicon && favicon.getAttribute("href") !== href) favicon.setAttribute("href", href);
};

button?.addEventListener("click", () => {
  isPaused = !isPaused;
  kept("switchboard-paused", isPaused ? "1" : "0");
  everythingHasChanged();
  showState();
});

if (button) {
  compete();
  channel?.postMessage({ asks: true });
  setInterval(turn, 250);
}
