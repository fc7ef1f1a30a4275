// Live panels: the event stream says what changed, and each panel fetches its next version.
//
// A browser opens one stream, because HTTP/1.1 allows it six connections to a host. The visible tab that holds the lock
// reads the stream and passes its signals to the other tabs by BroadcastChannel. A slow poll makes up for a signal that
// did not arrive. Without a stream, or without locks (plain HTTP on a name other than localhost), each panel polls at
// its own interval.
import { $, $$, stored } from "./dom.js";
import { isSelected, release } from "./morph.js";

// Milliseconds.
const SLOW_POLL = 30_000; // while the stream is up
const MIN_GAP = 1_000; // between two requests of one panel
const SPREAD = 300; // a panel waits up to this long, so that one request covers several signals
const SILENCE = 30_000; // a stream without a byte for this long is dead: the server sends a heartbeat every 12 s
const MAX_BACKOFF = 30_000; // between two attempts to connect
const CONNECT_TIME = 4_000; // before the button says that there is no stream

const button = $("#live");
const pill = $("#disconnected");
const favicon = $("#favicon");
const began = performance.now();
const timings = new Map(); // panel id → { due, asked, took, isAsking }
let isPaused = stored("switchboard-paused") === "1";
let isStreaming = false;
let isAnswered = true;

const after = (delay) => performance.now() + delay * (0.85 + 0.3 * Math.random());
const interval = (panel) => (isStreaming ? SLOW_POLL : Number(panel.dataset.every) * 1000);

// ---- when a panel asks ------------------------------------------------------------------------------------------
const timing = (panel) => {
  if (!timings.has(panel.id)) timings.set(panel.id, { due: after(interval(panel)), asked: began, took: 0, isAsking: false });
  return timings.get(panel.id);
};

const turn = () => {
  showState();
  if (document.hidden || isPaused) return;
  release();
  for (const panel of $$("[data-live]")) {
    const at = timing(panel);
    at.due = Math.min(at.due, performance.now() + interval(panel) * 1.2);
    if (at.isAsking || performance.now() < at.due || isSelected(panel)) continue;
    at.isAsking = true;
    at.asked = performance.now();
    at.due = after(interval(panel));
    htmx.trigger(panel, "refresh");
  }
};

const hasChanged = (concerns, isCount = false) => {
  for (const panel of $$("[data-live]")) {
    if (!concerns(panel)) continue;
    const at = timing(panel);
    // Counts change every second during deliveries, so for counts alone a panel keeps its own interval. After a slow
    // response it waits longer, so that many tabs cannot overload the server.
    const gap = Math.max(isCount ? 1000 * panel.dataset.every : MIN_GAP, 10 * at.took);
    at.due = Math.min(at.due, Math.max(performance.now() + SPREAD * Math.random(), at.asked + gap));
  }
};
const everythingHasChanged = () => hasChanged(() => true);

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { pathname } = new URL(detail.xhr.responseURL || location.href, location.href);
  if (!pathname.startsWith("/login/")) return;
  detail.shouldSwap = false; // the session has ended: the login page is not a panel
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
let leading = null; // aborts when this tab stops reading the stream

const broadcast = (message) => {
  channel.postMessage(message);
  receive(message);
};

const receive = (message) => {
  if (message.isUp !== undefined) {
    isStreaming = message.isUp;
    document.documentElement.dataset.stream = isStreaming ? "up" : "down";
    if (message.isNew) everythingHasChanged();
    showState();
  }
  for (const { topics, service } of message.changed || []) {
    const concerns = ({ dataset: { live, service: own } }) =>
      live.split(" ").some((topic) => topics.includes(topic)) && (!own || !service || own === service);
    hasChanged(concerns, topics.includes("messages"));
  }
};

const keepStream = async (signal) => {
  for (let wait = 1000; !signal.aborted; wait = Math.min(2 * wait, MAX_BACKOFF)) {
    try {
      await readStream(signal, () => { wait = 1000; });
    } catch {
      // refused, cut off or silent: panels poll until the stream is back
    }
    if (signal.aborted) return;
    broadcast({ isUp: false });
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())));
  }
};

/** Read one stream to its end. Not an EventSource: that needs a listener per event type and hides the heartbeats. */
const readStream = async (leaving, onHello) => {
  const silence = new AbortController();
  const stop = () => silence.abort();
  let timer = setTimeout(stop, SILENCE);
  leaving.addEventListener("abort", stop);
  try {
    const answer = await fetch("/api/v1/events", { cache: "no-store", signal: silence.signal });
    if (!answer.ok) throw new Error(answer.statusText);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE);
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      const changed = frames.map(changeIn).filter(Boolean);
      if (changed.some(({ topics }) => topics.includes("hellos"))) {
        onHello();
        broadcast({ isUp: true, isNew: true }); // the stream does not repeat earlier events
      } else if (changed.length) broadcast({ changed });
    }
  } finally {
    clearTimeout(timer);
    leaving.removeEventListener("abort", stop);
  }
};

/** `event: operation.finished` with the id op_1 belongs to the topics "operations" and "operation:op_1". */
const changeIn = (frame) => {
  const kind = /^event: ([a-z]+)/m.exec(frame)?.[1];
  if (!kind) return null;
  const { id, service } = JSON.parse(/^data: (.*)$/m.exec(frame)?.[1] || "{}");
  return { topics: [kind.endsWith("s") ? kind : `${kind}s`, `${kind}:${id}`], service };
};

const compete = () => {
  if (leading || document.hidden || !channel || !navigator.locks || !window.TextDecoderStream) return;
  leading = new AbortController();
  const { signal } = leading;
  navigator.locks.request("switchboard-live", { signal }, () => keepStream(signal)).catch(() => {});
};
const retire = () => {
  leading?.abort();
  leading = null;
};

channel?.addEventListener("message", ({ data }) => {
  if (data.asks) {
    if (leading && isStreaming) channel.postMessage({ isUp: true });
  } else receive(data);
});

const resume = () => {
  if (document.hidden) return retire();
  compete();
  channel?.postMessage({ asks: true });
  everythingHasChanged();
};
document.addEventListener("visibilitychange", resume);
addEventListener("pagehide", retire);
addEventListener("pageshow", (event) => event.persisted && resume());

// ---- what the page says about it --------------------------------------------------------------------------------
const state = () => {
  if (isPaused) return "paused";
  if (!isAnswered) return "disconnected";
  return isStreaming || performance.now() - began < CONNECT_TIME ? "live" : "polling";
};
const WORDS = { live: "Live", polling: "Polling", paused: "Paused", disconnected: "Disconnected" };

const showState = () => {
  const now = state();
  if (!button || button.dataset.state === now) return;
  button.dataset.state = now;
  $(".word", button).textContent = WORDS[now];
  $(".visually-hidden", button).textContent = isPaused ? ": resume updates" : ": pause updates";
  pill.hidden = now !== "disconnected";
  showTrouble();
};

/** Title and icon show how many services are down, or that this page may be out of date. */
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
  stored("switchboard-paused", isPaused ? "1" : "0");
  everythingHasChanged();
  showState();
});

if (button) {
  compete();
  channel?.postMessage({ asks: true });
  setInterval(turn, 250);
}
