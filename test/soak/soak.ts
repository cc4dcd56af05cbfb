import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { loadConfig } from '../../src/config.ts';
import { HttpClient, readCa } from '../../src/http.ts';
import { enrolMany, Load, metricsOf, shortenLives } from '../support/load.ts';
import { openOutages, type Outage } from '../support/outages.ts';
import { VaultOwner } from '../support/owner.ts';
import { Site } from '../support/site.ts';

/*
 * Has many clients make calls of all kinds on the sandbox's HPCS server, whose vault token and SVIDs live a minute, and reports
 * errors, times and the server's memory. With `--outages` vault and SPIRE go away in between, one after the other; what the server
 * then refuses with 503 and a reason is counted apart, anything else is an error.
 * `npm run soak -- --clients 200 --minutes 60 --period 120 --outages`
 */
const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '200' },
    minutes: { type: 'string', default: '60' },
    period: { type: 'string', default: '120' },
    outages: { type: 'boolean', default: false },
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
const config = await loadConfig(site.configuration);
const api = resources.use(
  new HttpClient({ url: config['hpcs-server'].url, ca: await readCa(config['hpcs-server']['ca-file']), name: 'HPCS server' }),
);
const owner = resources.use(await VaultOwner.open(site));
const { outages } = resources.use(await openOutages(site, owner));
const load = new Load();
const end = new AbortController();
const start = performance.now();
const minute = (): number => Math.round((performance.now() - start) / 6000) / 10;
const until = (time: number): Promise<void> => sleep(Math.max(0, start + time * 60_000 - performance.now()));
const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((all, one) => all + one, 0);
let [errors, calls, refused] = [0, 0, 0];
const memory: number[] = [];

/** Adds up what the load did since the last time. */
function take(): ReturnType<Load['take']> {
  const report = load.take();
  calls += sum(report.calls);
  errors += sum(report.errors);
  refused += sum(report.refusals);
  return report;
}

async function reportNowAndThen(): Promise<void> {
  const every = Math.min(5, minutes / 3);
  for (let time = every; time <= minutes + 1e-6; time += every) {
    await until(time);
    const { errors: failed, refusals, alone, latency } = take();
    const metrics = await metricsOf(site);
    const resident = Math.round((metrics['process_resident_memory_bytes'] ?? 0) / 1e6);
    memory.push(resident);
    const heap = Math.round((metrics['nodejs_heap_size_used_bytes'] ?? 0) / 1e6);
    const processor = Math.round(metrics['process_cpu_seconds_total'] ?? 0);
    const logins = metrics['hpcs_vault_logins_total{outcome="ok"}'];
    console.log(
      JSON.stringify({ minute: minute(), calls, errors, latency, resident, heap, processor, logins, failed, refusals, alone }),
    );
  }
}

/** The server is well again when `/readyz` has said so for this long, in milliseconds. */
const steady = 15_000;

/** What `/readyz` says: its status and the state of a part. */
async function ready(part: string): Promise<{ status: number; state: unknown }> {
  const { status, body } = await api.json('GET', '/readyz');
  return { status, state: (body as Record<string, unknown>)[part] };
}

async function goThrough({ what, part, begin, end: back }: Outage, seconds: number): Promise<void> {
  const at = minute();
  const isBack = load.absent(part);
  const states = new Set<unknown>();
  await begin();
  for (const until = performance.now() + seconds * 1000; performance.now() < until; await sleep(1000)) {
    const { status, state } = await ready(part);
    if (status !== 200) states.add(`${status} ${String(state)}`);
  }
  await back();
  const given = performance.now();
  // The SPIRE agent may have nothing new yet when what it has expires: what counts is when it stays well.
  let since: number | undefined;
  while (since === undefined || performance.now() < since + steady) {
    since = (await ready(part)).status === 200 ? (since ?? performance.now()) : undefined;
    await sleep(250);
  }
  isBack(since);
  const recovered = Math.round((since - given) / 100) / 10;
  console.log(JSON.stringify({ outage: what, at, seconds, readyz: [...states], recovered }));
  if (states.size > 0) return;
  console.log(`/readyz did not tell that ${what}`);
  errors += 1;
}

/** Seconds: some outages are shorter than the server's token and SVIDs live, some are longer. */
const plan: [outage: Outage, seconds: number][] = [
  [outages.vaultKilled, 20],
  [outages.vaultSealed, 30],
  [outages.spireKilled, 20],
  [outages.vaultCut, 30],
  [outages.spireCut, 30],
  [outages.vaultPaused, 30],
  [outages.spirePaused, 30],
  [outages.vaultCut, 100],
  [outages.spireCut, 100],
  [outages.vaultKilled, 100],
  [outages.spireKilled, 100],
];

async function takeAway(): Promise<void> {
  for (const [index, [outage, seconds]] of plan.entries()) {
    await until(((index + 0.5) * minutes) / plan.length);
    await goThrough(outage, seconds);
  }
}

const running = load.run(clients, Number(values.period) * 1000, end.signal);
await Promise.all([reportNowAndThen(), values.outages ? takeAway() : undefined]);
end.abort();
await running;
console.log(`failed at the end: ${JSON.stringify(take().errors)}`);
console.log(
  `${calls} calls, ${load.rounds} rounds, ${errors} errors, ${refused} refused in outages; memory (MB): ${memory.join(' ')}`,
);
if (errors > 0) process.exitCode = 1;
