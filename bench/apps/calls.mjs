// The call that the Node peers make: undici's request, which costs half of fetch, over connections that are kept.
import { Agent, request } from 'undici';

const BODY_SIZE = 1024; // bytes, as in bench/messages.py
const dispatcher = new Agent({ connections: 200, pipelining: 1 });

export async function post(number, body) {
  const headers = { 'content-type': 'application/json', 'webhook-id': `msg_${number}` };
  const answer = await request(process.env.BENCH_SINK, { method: 'POST', body, headers, dispatcher });
  const text = await answer.body.text();
  if (answer.statusCode >= 300) throw new Error(`answered ${answer.statusCode}`);
  return { status: answer.statusCode, headers: answer.headers, text };
}

export function body(number) {
  const start = `{"n": ${number}, "event": "order.created", "text": "`;
  return `${start}${'x'.repeat(BODY_SIZE - start.length - 2)}"}`;
}
