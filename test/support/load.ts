import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig, type Config } from '../../src/config.ts';
import { messageOf } from '../../src/errors.ts';
import { HpcsServer } from '../../src/hpcs.ts';
import { readCa } from '../../src/http.ts';
import { generateProofKey, keyProver, type Prover } from '../../src/identity/proof.ts';
import { makeTicket, ticketHash } from '../../src/job/ticket.ts';
import { secretName } from '../../src/record.ts';
import { trustDomain, sockets } from '../../src/sandbox/names.ts';
import { generateKey } from '../../src/seal/keys.ts';
import { Secret } from '../../src/secret.ts';
import { quote } from '../../src/shell.ts';
import { Vault } from '../../src/vault.ts';
import { VaultOwner } from './owner.ts';
import { containerOf, type Site } from './site.ts';

/** A client under load: enrolled, with connections of its own. */
interface Client extends AsyncDisposable {
  id: string;
  prove: Prover;
  server: HpcsServer;
  vault: Vault;
}

/** What became of a load: calls of each kind, and errors by what they said. */
export interface LoadReport {
  calls: Record<string, number>;
  errors: Record<string, number>;
  /** Calls that the server refused with 503 and a reason while a part was away, by what it said. */
  refusals: Record<string, number>;
  /** The clients' own calls of the vault that failed while it was away: nobody is between. */
  alone: number;
  /** Milliseconds of all calls of the server while no part was away: median, 99 of 100, longest. */
  latency: { median: number; p99: number; longest: number };
}

/** A time in which a part was away; open until it is known to be back. */
interface Absence {
  part: 'vault' | 'spire';
  from: number;
  to: number;
  /** What the server refused meanwhile: when the call began, and what it said. */
  refused: { start: number; reason: string }[];
}

/** Enrols clients, all at once: their tokens are made by one program in the server's container. */
export async function enrolMany(site: Site, count: number): Promise<Client[]> {
  const run = randomBytes(4).toString('hex');
  const program = `import { loadServerConfig } from '/app/src/server/config.ts'; import { openVault } from '/app/src/server/server.ts';
import { Clients } from '/app/src/server/clients.ts'; import { Store } from '/app/src/server/store.ts';
await using vault = await openVault(await loadServerConfig('/etc/hpcs/hpcs-server.conf'));
const clients = new Clients(new Store(vault), vault, '${trustDomain}'); const tokens = [];
for (let n = 0; n < ${count}; n++) tokens.push((await clients.invite({ name: 'load-${run}-' + n, groups: [], lifetime: 3600 })).token.reveal());
console.log(JSON.stringify(tokens));`;
  const ran = await site.run(`node --input-type=module-typescript -e ${quote(program)}`, '', containerOf('hpcsServer'));
  if (ran.code !== 0) throw new Error(ran.stderr);
  const config = await loadConfig(site.configuration);
  const clients: Client[] = [];
  for (const token of JSON.parse(ran.stdout) as string[]) clients.push(await enrolOne(config, new Secret(token)));
  return clients;
}

async function enrolOne(config: Config, token: Secret): Promise<Client> {
  const ca = await readCa(config['hpcs-server']['ca-file']);
  const server = new HpcsServer({ url: config['hpcs-server'].url, ca });
  const vault = new Vault({ url: config.vault.url, ca });
  const prove = keyProver(await generateProofKey());
  const { clientId } = await server.enrol(token, prove);
  return {
    id: clientId,
    prove,
    server,
    vault,
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      await vault[Symbol.asyncDispose]();
    },
  };
}

/** Has clients make calls of all kinds, each at its own pace, until the signal ends it. */
export class Load {
  readonly #calls = new Map<string, number>();
  readonly #errors = new Map<string, number>();
  readonly #refusals = new Map<string, number>();
  readonly #times: number[] = [];
  readonly #absences: Absence[] = [];
  #alone = 0;
  /** Rounds that ended well. */
  rounds = 0;
  /** Calls that the server refused as it should while a part was away. */
  refused = 0;

  /** @param period milliseconds from one round of a client to its next */
  async run(clients: readonly Client[], period: number, signal: AbortSignal): Promise<void> {
    await Promise.all(
      clients.map(async (client, index) => {
        // Spread over the period, as clients are.
        await pause((period * index) / clients.length, signal);
        for (let round = 0; !signal.aborted; round += 1) {
          const start = performance.now();
          const well = await this.#round(client, round + index).then(
            () => true,
            () => false,
          );
          if (well) this.rounds += 1;
          await pause(Math.max(0, period - (performance.now() - start)), signal);
        }
      }),
    );
  }

  /**
   * From now on calls that the server refuses with 503 and a reason are no errors, nor are those that begin before it is back.
   *
   * @returns to be called when the part is back; with the time since when it is, calls refused that began later are errors after all
   */
  absent(part: 'vault' | 'spire'): (since?: number) => void {
    const absence: Absence = { part, from: performance.now(), to: Number.POSITIVE_INFINITY, refused: [] };
    this.#absences.push(absence);
    return (since = performance.now()) => {
      absence.to = since;
      for (const { start, reason } of absence.refused.splice(0)) {
        if (start <= since) continue;
        count(this.#refusals, reason, -1);
        count(this.#errors, `after ${part} was back: ${reason}`);
      }
    };
  }

  /** What happened since the last report. */
  take(): LoadReport {
    const times = this.#times.splice(0).toSorted((one, other) => one - other);
    const at = (part: number): number => Math.round(times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0);
    const report = {
      calls: Object.fromEntries(this.#calls),
      errors: Object.fromEntries(this.#errors),
      refusals: Object.fromEntries(this.#refusals),
      alone: this.#alone,
      latency: { median: at(0.5), p99: at(0.99), longest: at(1) },
    };
    this.#calls.clear();
    this.#errors.clear();
    this.#refusals.clear();
    this.#alone = 0;
    return report;
  }

  async #round({ id, prove, server, vault }: Client, round: number): Promise<void> {
    if (round % 5 === 0) {
      await this.#call('capabilities', () => server.capabilities());
      await this.#call('trust-bundle', () => server.trustBundle());
      await this.#call('resolve', () => server.resolve([id], prove));
    }
    if (round % 20 === 0) {
      const jwt = await this.#call('token', () => server.clientToken('hpcs-server', prove));
      const grant = { jwt, secret: secretName('load'), users: ['user'], groups: [], computeNodes: ['node'] };
      await this.#call('create-workloads', () => server.createWorkloads(grant));
    }
    const paths: string[] = [];
    for (const role of round % 2 === 0 ? ['data', 'job'] : ['job'])
      paths.push(await this.#store({ id, prove, server, vault }, role));
    const ticket = makeTicket();
    const hash = ticketHash(ticket);
    const job = String(1 + Math.floor(Math.random() * 1e9));
    const artefacts = paths.map((path, index) => ({
      role: index === paths.length - 1 ? ('job' as const) : ('data' as const),
      secret_path: path,
    }));
    await this.#call('register job', () => server.registerJob({ job, ticket: hash, artefacts }, prove));
    const key = (await generateKey('age')).publicKey;
    await this.#call('redeem', () => server.redeem({ halves: [ticket.scriptHalf, ticket.fileHalf], job, key }));
    await this.#call('end job', () => server.endJob(hash, prove));
  }

  async #store({ id, prove, server, vault }: Omit<Client, keyof AsyncDisposable>, name: string): Promise<string> {
    const { secretPath } = await this.#call('grant', () =>
      server.permit({ secret: secretName(name), clients: [], groups: [] }, prove),
    );
    const jwt = await this.#call('token', () => server.clientToken('vault', prove));
    await this.#call('vault', async () => {
      await using session = await vault.login(`client_${id}`, jwt);
      await session.writeNew(secretPath, { key: 'x' });
    });
    return secretPath;
  }

  async #call<Result>(name: string, task: () => Promise<Result>): Promise<Result> {
    const start = performance.now();
    try {
      return await task();
    } catch (error) {
      this.#note(name, messageOf(error).replaceAll(/[0-9a-f]{9,}/g, '…'), start);
      throw error;
    } finally {
      count(this.#calls, name);
      if (name !== 'vault' && this.#during(start).length === 0) this.#times.push(performance.now() - start);
    }
  }

  /** Which parts were away at some time between then and now. */
  #during(start: number): Absence[] {
    return this.#absences.filter(({ to }) => start <= to);
  }

  #note(name: string, message: string, start: number): void {
    const away = this.#during(start);
    const [, reason] = / refused \(503\): (.+)$/.exec(message) ?? [];
    if (name === 'vault' && away.some(({ part }) => part === 'vault')) this.#alone += 1;
    else if (away.length > 0 && reason !== undefined && reason !== 'no reason given') {
      this.refused += 1;
      for (const { refused } of away) refused.push({ start, reason });
      count(this.#refusals, reason);
    } else count(this.#errors, `${name}: ${message}`);
  }
}

function count(counts: Map<string, number>, what: string, by = 1): void {
  counts.set(what, (counts.get(what) ?? 0) + by);
}

/**
 * Gives the HPCS server of the sandbox a vault token and SVIDs that live a minute, from now on.
 *
 * @returns what makes it as it was
 */
export async function shortenLives(site: Site): Promise<AsyncDisposable> {
  const owner = await VaultOwner.open(site);
  const lives = async (token: number, svid: number): Promise<void> => {
    const path = 'auth/jwt/role/hpcs-server';
    const { data } = (await owner.ask('GET', path)).body as { data: object };
    const { status } = await owner.ask('POST', path, { ...data, token_ttl: token, token_max_ttl: token });
    if (status >= 300) throw new Error(`the vault answers ${status}`);
    const spire = `/opt/spire/bin/spire-server`;
    const where = `-socketPath ${sockets.admin} -spiffeID spiffe://${trustDomain}/hpcs-server/workload`;
    const ran = await site.run(
      `set -e; shown=$(${spire} entry show ${where}); id=$(echo "$shown" | sed -n 's/^Entry ID *: //p')
selector=$(echo "$shown" | sed -n 's/^Selector *: //p'); parent=$(echo "$shown" | sed -n 's/^Parent ID *: //p')
${spire} entry update ${where} -entryID "$id" -parentID "$parent" -selector "$selector" -jwtSVIDTTL ${svid} -x509SVIDTTL ${svid}`,
      'root',
      containerOf('spireServer'),
    );
    if (ran.code !== 0) throw new Error(ran.stderr + ran.stdout);
    // Tokens that were given for longer end now: the server logs in again by itself.
    await owner.ask('POST', 'sys/leases/revoke-prefix/auth/jwt/login');
  };
  await lives(60, 60);
  return {
    [Symbol.asyncDispose]: async () => {
      await lives(3600, 0);
      await owner[Symbol.asyncDispose]();
    },
  };
}

/** The HPCS server's metrics by name and labels, as its own listener tells them. */
export async function metricsOf(site: Site): Promise<Record<string, number>> {
  const ran = await site.run(
    `node -e "fetch('http://127.0.0.1:10090/metrics').then((answer) => answer.text()).then(console.log)"`,
    '',
    containerOf('hpcsServer'),
  );
  if (ran.code !== 0) throw new Error(ran.stderr);
  const lines = ran.stdout.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return Object.fromEntries(
    lines.map((line): [string, number] => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => undefined);
}
