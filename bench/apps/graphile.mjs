// graphile-worker, one process, tuned: `node graphile.mjs work [record]`. It deletes a job that is done; with `record`
// the task writes a row of what Switchboard's attempt row holds first, in a statement of its own.
import { makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { post } from './calls.mjs';

const CONCURRENCY = 100;
const TUNED = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const INSERT = {
  name: 'record',
  text: `INSERT INTO attempt (number, try, cause, started_at, duration, outcome, status_code, method, url, request_headers,
    request_size, response_headers, response_body, response_size)
    VALUES ($1, 1, 'first', $2, $3, 'succeeded', $4, 'POST', $5, $6, $7, $8, $9, $10)`,
};
const pgPool = new pg.Pool({ max: 20 }); // PGHOST and the like say where

async function record({ number, body }, startedAt, answer) {
  const seconds = (Date.now() - startedAt) / 1000;
  const sent = JSON.stringify([['content-type', 'application/json'], ['webhook-id', `msg_${number}`]]);
  const received = JSON.stringify(Object.entries(answer.headers));
  const facts = [number, startedAt, seconds, answer.status, process.env.BENCH_SINK, sent, body.length, received];
  await pgPool.query({ ...INSERT, values: [...facts, Buffer.from(answer.text), answer.text.length] });
}

if (process.argv[2] === 'prepare') {
  const utilities = await makeWorkerUtils({ pgPool });
  await utilities.migrate();
  await utilities.release();
  await pgPool.end();
} else {
  const records = process.argv[3] === 'record';
  const deliver = async (payload) => {
    const startedAt = new Date();
    const answer = await post(payload.number, payload.body);
    if (records) await record(payload, startedAt, answer);
  };
  const preset = { worker: { concurrentJobs: CONCURRENCY, ...TUNED } };
  const logger = undefined;
  await run({ pgPool, concurrency: CONCURRENCY, noHandleSignals: true, logger, preset, taskList: { deliver } });
  console.log('ready');
}
