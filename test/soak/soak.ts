import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { enrolMany, Load, metricsOf, shortenLives } from '../support/load.ts';
import { Site } from '../support/site.ts';

/*
 * Has many clients make calls of all kinds on the sandbox's HPCS server, whose vault token and SVIDs live a minute, and reports
 * errors, times and the server's memory. `npm run soak -- --clients 200 --minutes 60 --period 120`
 */
const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '200' },
    minutes: { type: 'string', default: '60' },
    period: { type: 'string', default: '120' },
  },
});
const minutes = Number(values.minutes);

await using site = await Site.open();
await using lives = await shortenLives(site);
void lives;
await using resources = new AsyncDisposableStack();
const clients = await enrolMany(site, Number(values.clients));
for (const client of clients) resources.use(client);
console.log(`${clients.length} clients are enrolled`);
const load = new Load();
const end = new AbortController();
const running = load.run(clients, Number(values.period) * 1000, end.signal);
const start = performance.now();
const every = Math.min(5, minutes / 3);
let errors = 0;
let calls = 0;
const memory: number[] = [];
for (let minute = every; minute <= minutes + 1e-6; minute += every) {
  await sleep(Math.max(0, start + minute * 60_000 - performance.now()));
  const { calls: made, errors: failed, latency } = load.take();
  const metrics = await metricsOf(site);
  calls += Object.values(made).reduce((sum, count) => sum + count, 0);
  errors += Object.values(failed).reduce((sum, count) => sum + count, 0);
  const resident = Math.round((metrics['process_resident_memory_bytes'] ?? 0) / 1e6);
  memory.push(resident);
  const heap = Math.round((metrics['nodejs_heap_size_used_bytes'] ?? 0) / 1e6);
  const processor = Math.round(metrics['process_cpu_seconds_total'] ?? 0);
  console.log(
    JSON.stringify({ minute: Math.round(minute * 10) / 10, calls, errors, latency, resident, heap, processor, logins: metrics['hpcs_vault_logins_total{outcome="ok"}'], failed }),
  ); // prettier-ignore
}
end.abort();
await running;
console.log(`${calls} calls, ${load.rounds} rounds, ${errors} errors; memory (MB): ${memory.join(' ')}`);
if (errors > 0) process.exitCode = 1;
