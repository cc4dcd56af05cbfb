import { parseArgs } from 'node:util';
import { z } from 'zod';
import { loadConfig } from '../../src/config.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import { secretName } from '../../src/record.ts';
import { putFiles } from '../../src/sandbox/engine.ts';
import { serverOf } from '../support/people.ts';
import { containerOf, Site } from '../support/site.ts';
import { median } from './measure.ts';

/**
 * A grant to many readers against `spire-server entry create -data` with the same entries, both on the sandbox's SPIRE server, which
 * has a database in a file. Prints medians of several runs, and the ratio, as JSON.
 */
const { values: flags } = parseArgs({
  options: { readers: { type: 'string', default: '10000' }, runs: { type: 'string', default: '3' } },
});
const runs = Number(flags.runs);
const nodes = Array.from({ length: Number(flags.readers) / 10 }, (_, index) => `nid${String(index).padStart(6, '0')}`);
const users = Array.from({ length: 10 }, (_, index) => `user${index}`);
const { signal } = new AbortController();

await using site = await Site.open();
const config = await loadConfig(site.configuration);
const { 'trust-domain': trustDomain } = config['spire-server'];
await using server = await serverOf(config);
await using identity = await openIdentity(config, { signal, progress: () => undefined, env: {} });
const spire = '/opt/spire/bin/spire-server';
const socket = '-socketPath /run/spire-admin/api.sock';

async function admin(script: string): Promise<string> {
  const { code, stdout, stderr } = await site.run(script, 'root', containerOf('spireServer'));
  if (code !== 0) throw new Error(`${script.slice(0, 200)} ended ${code}: ${stderr.slice(-2000)}`);
  return stdout;
}

async function seconds(task: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await task();
  return (performance.now() - started) / 1000;
}

const grant = async (secret: string): Promise<void> => {
  await server.createWorkloads({
    jwt: await identity.jwt(config['hpcs-server'].audience),
    secret,
    users,
    groups: [],
    computeNodes: nodes,
    onProgress: () => undefined,
    signal,
  });
};

/** Entries of the same form, as the command line of SPIRE reads them, in a file in its container. */
async function writeEntries(name: string): Promise<string> {
  const entries = nodes.flatMap((node) =>
    users.map((user) => ({
      spiffe_id: `spiffe://${trustDomain}/bench/${name}`,
      parent_id: `spiffe://${trustDomain}/h/${node}`,
      selectors: [{ type: 'unix', value: `user:${user}` }],
      jwt_svid_ttl: 300,
    })),
  );
  const content = JSON.stringify({ entries });
  await putFiles(site.docker.getContainer(containerOf('spireServer')), [{ name: 'var/lib/spire/entries.json', content }]);
  return '/var/lib/spire/entries.json';
}

/** So that every run starts with the same database. */
async function removeEntries(id: string): Promise<void> {
  const shown = z
    .object({ entries: z.array(z.object({ id: z.string() })) })
    .parse(JSON.parse(await admin(`${spire} entry show -spiffeID ${id} -output json ${socket}`)));
  const content = JSON.stringify({ ids: shown.entries.map((entry) => entry.id) });
  await putFiles(site.docker.getContainer(containerOf('spireServer')), [{ name: 'var/lib/spire/ids', content }]);
  await admin(`${spire} entry delete -file /var/lib/spire/ids ${socket} >/dev/null`);
}

const taken: Record<'grant' | 'again' | 'command', number[]> = { grant: [], again: [], command: [] };
for (let round = 1; round <= runs; round++) {
  const secret = secretName('readers');
  taken.grant.push(await seconds(() => grant(secret)));
  taken.again.push(await seconds(() => grant(secret)));
  await removeEntries(`spiffe://${trustDomain}/c/${identity.clientId}/s/${secret}`);
  const name = `${process.pid}-${round}`;
  const file = await writeEntries(name);
  taken.command.push(await seconds(() => admin(`${spire} entry create -data ${file} ${socket} >/dev/null`)));
  await removeEntries(`spiffe://${trustDomain}/bench/${name}`);
  process.stderr.write(`run ${round}: ${Object.entries(taken).map(([what, all]) => `${what} ${all.at(-1)?.toFixed(2)} s`).join(', ')}\n`); // prettier-ignore
}
const medians = { grant: median(taken.grant), again: median(taken.again), command: median(taken.command) };
const result = {
  readers: nodes.length * users.length,
  runs,
  seconds: medians,
  ratio: Number((medians.grant / medians.command).toFixed(2)),
};
process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
