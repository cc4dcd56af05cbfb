import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { loadConfig, type Config } from '../../src/config.ts';
import { HpcsServer } from '../../src/hpcs.ts';
import { readCa } from '../../src/http.ts';
import { openIdentity } from '../../src/identity/client-identity.ts';
import type { ClientIdentity } from '../../src/identity/identity.ts';
import type { CliExit, CliOptions } from './cli.ts';
import { containerOf, type Site } from './site.ts';

const { signal } = new AbortController();

/** Somebody with a key and a state directory of his own, enrolled at the sandbox's HPCS server. */
export interface Person extends AsyncDisposable {
  configuration: string;
  keyFile: string;
  identity: ClientIdentity;
  hpcs(args: readonly string[], options?: CliOptions): Promise<CliExit>;
}

/** A one-time token, as an administrator of the HPCS server makes it. */
export async function enrolmentToken(site: Site, name: string, more = ''): Promise<string> {
  const ran = await site.run(
    `node /app/bin/dev.js server enrol --config /etc/hpcs/hpcs-server.conf --json --name ${name} ${more}`,
    '',
    containerOf('hpcsServer'),
  );
  if (ran.code !== 0) throw new Error(ran.stderr);
  return z.object({ token: z.string() }).parse(JSON.parse(ran.stdout)).token;
}

/** Enrols a person as a user would, with `hpcs enrol`. */
export async function enrolPerson(site: Site, name: string, more = ''): Promise<Person> {
  const directory = join(site.temporary, `person-${name}-${Math.random().toString(36).slice(2)}`);
  const configuration = `${directory}.conf`;
  const keyFile = `${directory}.key`;
  const usual = await readFile(site.configuration, 'utf8');
  await writeFile(configuration, usual.replace(/^key-file=.*$/m, `key-file=${keyFile}`));
  const env = { HPCS_CONFIG: configuration, HPCS_STATE_DIR: directory };
  await site.hpcsOk(['enrol'], { input: `${await enrolmentToken(site, name, more)}\n`, env });
  const identity = await openIdentity(await loadConfig(configuration), { signal, progress: () => undefined, env: {} });
  return {
    configuration,
    keyFile,
    identity,
    hpcs: (args, options = {}) => site.hpcs(args, { ...options, env: { ...env, ...options.env } }),
    [Symbol.asyncDispose]: () => identity[Symbol.asyncDispose](),
  };
}

/** A client of the HPCS server that a configuration names. */
export async function serverOf(config: Config): Promise<HpcsServer> {
  const { url, 'ca-file': caFile } = config['hpcs-server'];
  return new HpcsServer({ url, ca: await readCa(caFile) });
}
