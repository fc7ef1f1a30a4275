// BullMQ, one process: `node bullmq.mjs work`. The queue is paused until SIGUSR2, so that the worker can be watched idle.
import { Queue, Worker } from 'bullmq';
import { body, post } from './calls.mjs';

const BATCH = 500;
const CONCURRENCY = 100;
const [path, db] = process.env.BENCH_BROKER.replace('unix://', '').split('?db=');
const connection = { path, db: Number(db), maxRetriesPerRequest: null };
const queue = new Queue('bench', { connection });

if (process.argv[2] === 'queue') {
  const messages = Number(process.argv[3]);
  await queue.pause();
  for (let from = 0; from < messages; from += BATCH) {
    const numbers = Array.from({ length: Math.min(BATCH, messages - from) }, (_, index) => from + index);
    await queue.addBulk(numbers.map((number) => ({ name: 'deliver', data: { number, body: body(number) } })));
  }
  await queue.close();
} else {
  const deliver = async ({ data }) => {
    await post(data.number, data.body);
    return data.number;
  };
  await new Worker('bench', deliver, { connection, concurrency: CONCURRENCY }).waitUntilReady();
  process.on('SIGUSR2', () => queue.resume());
  console.log('ready');
}
