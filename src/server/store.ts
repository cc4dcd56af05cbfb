import { z } from 'zod';
import { HpcsError, messageOf } from '../errors.ts';
import { assertChoreGoesOn, isVaultAway } from './chores.ts';
import { kvPath } from '../vault.ts';
import type { VaultAdmin } from './vault-admin.ts';

/** A record with the version it was read at. */
export interface Stored<Value> {
  value: Value;
  /** Counts from 1; what {@link Store.write} compares. */
  version: number;
}

const readAnswer = z.object({ data: z.object({ data: z.unknown(), metadata: z.object({ version: z.int() }) }) });
const listAnswer = z.object({ data: z.object({ keys: z.array(z.string()) }) });

/** Below this path of the vault's KV lies what the server remembers: no client's role reaches it. */
const prefix = 'hpcs-server';

/**
 * The server's memory: small JSON records in the vault, each changed by compare-and-set only. Servers on the same vault share it,
 * and a server that starts again has forgotten nothing.
 *
 * @see OpenBao, KV secrets engine version 2: check-and-set
 */
export class Store {
  readonly #vault: VaultAdmin;

  constructor(vault: VaultAdmin) {
    this.#vault = vault;
  }

  /**
   * Reads a record.
   *
   * @returns undefined where there is none
   * @throws HpcsError `identity`, with code `record-form` for one of a form that this server does not know
   */
  async read<Schema extends z.ZodType>(path: string, schema: Schema): Promise<Stored<z.output<Schema>> | undefined> {
    const answer = await this.#vault.request('GET', url('data', path));
    if (answer.status === 404) return undefined;
    const parsed = readAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.#vault.refused(`reading ${prefix}/${path}`, answer);
    const { data, metadata } = parsed.data.data;
    const checked = schema.safeParse(data);
    if (!checked.success) throw unknownForm(path, checked.error);
    return { value: checked.data, version: metadata.version };
  }

  /** The same, but a record of an unknown form is told, and counts as none. @throws HpcsError `identity` */
  async readKnown<Schema extends z.ZodType>(
    path: string,
    schema: Schema,
    unknown: (error: HpcsError) => void,
  ): Promise<Stored<z.output<Schema>> | undefined> {
    try {
      return await this.read(path, schema);
    } catch (error) {
      if (!(error instanceof HpcsError && error.code === 'record-form')) throw error;
      unknown(error);
      return undefined;
    }
  }

  /**
   * Writes a record if it still is at the version that it was read at.
   *
   * @param version 0 for a record that must not exist
   * @returns whether it was written
   * @throws HpcsError `identity`
   */
  async write(path: string, value: object, version: number): Promise<boolean> {
    const answer = await this.#vault.request('POST', url('data', path), { data: value, options: { cas: version } });
    if (answer.status < 300) return true;
    if (answer.status === 400 && JSON.stringify(answer.body).includes('check-and-set')) return false;
    throw this.#vault.refused(`writing ${prefix}/${path}`, answer);
  }

  /** Names right below a path; those of directories end in a slash. @throws HpcsError `identity` */
  async list(path: string): Promise<string[]> {
    const answer = await this.#vault.request('LIST', url('metadata', path));
    if (answer.status === 404) return [];
    const parsed = listAnswer.safeParse(answer.body);
    if (answer.status !== 200 || !parsed.success) throw this.#vault.refused(`listing ${prefix}/${path}`, answer);
    return parsed.data.data.keys;
  }

  /** Names of the directories right below a path that holds nothing else, without their slashes. @throws HpcsError `identity` */
  async directories(path: string): Promise<string[]> {
    return (await this.list(path)).map((name) => name.replace('/', ''));
  }

  /** Removes a record with all its versions. One that is gone counts as removed. @throws HpcsError `identity` */
  async remove(path: string): Promise<void> {
    const answer = await this.#vault.request('DELETE', url('metadata', path));
    if (answer.status >= 400 && answer.status !== 404) throw this.#vault.refused(`removing ${prefix}/${path}`, answer);
  }
}

/**
 * Does a chore for each of some records: one that fails does not keep the others from their turn, unless it is the vault that is away.
 *
 * @param together how many at the same time: the vault has others to answer. Within another, one of the two is 1
 * @throws what failed, when all had their turn: an HpcsError as the first was (that the vault is away comes first), or an AggregateError;
 * `interrupted` as {@link assertChoreGoesOn}
 */
export async function eachOf(names: readonly string[], chore: (name: string) => Promise<void>, together = 8): Promise<void> {
  const failures: unknown[] = [];
  // One iterator, from which each takes what is next.
  const left = names.values();
  const work = async (): Promise<void> => {
    for (const name of left) {
      if (isVaultAway(failures[0])) return;
      assertChoreGoesOn();
      await chore(name).catch((error: unknown) => void (isVaultAway(error) ? failures.unshift(error) : failures.push(error)));
    }
  };
  await Promise.all(Array.from({ length: Math.min(together, names.length) }, work));
  if (failures.length === 0) return;
  const [first] = failures;
  const all = new AggregateError(failures, `${failures.length} records failed, first: ${messageOf(first)}`);
  if (!(first instanceof HpcsError)) throw all;
  const { kind, code, suggestion } = first;
  throw new HpcsError(kind, code, all.message, { cause: all, ...(suggestion === undefined ? {} : { suggestion }) });
}

/** The hour of a time, counted from 1970: records that end in it lie side by side, so that one list finds all that are over. */
export function hourOf(time: Date): number {
  return Math.floor(time.getTime() / 3_600_000);
}

/** What has to be done anew when a record is removed, by its directory. Those that are not here are not to be removed: ids hang on them. */
const anew: Readonly<Record<string, string>> = {
  jobs: 'submit its job again',
  grants: 'let the owner of the artefact grant it again (hpcs access grant)',
  keys: 'let its client enrol or log in again',
  logins: 'let its client log in again',
  enrolments: 'make a new enrolment token (hpcs server enrol)',
};

function unknownForm(path: string, { issues }: z.ZodError): HpcsError {
  const [directory = ''] = path.split('/');
  // Where it differs, not what stands there.
  const where = [...new Set(issues.map((issue) => issue.path.join('.') || 'the whole of it'))].slice(0, 5).join(', ');
  const wrote = 'run the version of the server that wrote it';
  return new HpcsError(
    'identity',
    'record-form',
    `the record ${prefix}/${path} in the vault has a form that this server does not know: ${where}`,
    {
      suggestion:
        anew[directory] === undefined
          ? wrote
          : `${wrote}, or remove the record (bao kv metadata delete -mount=kv ${prefix}/${path}) and ${anew[directory]}`,
    },
  );
}

function url(kind: 'data' | 'metadata', path: string): string {
  return kvPath(`${prefix}/${path}`, kind);
}
