import { randomUUID } from 'node:crypto';
import { HpcsError, messageOf } from '../errors.ts';
import { GrpcError, grpcStatus, type MethodDescriptor } from '../identity/grpc.ts';
import { formatSpiffeId, type SpiffeId } from '../identity/spiffe-id.ts';
import { certificates } from '../identity/x509-svid.ts';
import type { Messages } from '../protobuf.ts';
import { Secret } from '../secret.ts';
import { SpireConnection, SpireService, type SpireReach } from './spire-connection.ts';

/** @see spiffe/spire-api-sdk, proto/spire/api: types and server/{entry,agent,svid,bundle}/v1 */
const messages: Messages = {
  SPIFFEID: { fields: { trustDomain: { type: 'string', id: 1 }, path: { type: 'string', id: 2 } } },
  Selector: { fields: { type: { type: 'string', id: 1 }, value: { type: 'string', id: 2 } } },
  Status: { fields: { code: { type: 'int32', id: 1 }, message: { type: 'string', id: 2 } } },
  Entry: {
    fields: {
      id: { type: 'string', id: 1 },
      spiffeId: { type: 'SPIFFEID', id: 2 },
      parentId: { type: 'SPIFFEID', id: 3 },
      selectors: { rule: 'repeated', type: 'Selector', id: 4 },
      admin: { type: 'bool', id: 7 },
      downstream: { type: 'bool', id: 8 },
      jwtSvidTtl: { type: 'int32', id: 13 },
    },
  },
  EntryFilter: { fields: { bySpiffeId: { type: 'SPIFFEID', id: 1 }, byParentId: { type: 'SPIFFEID', id: 2 } } },
  ListEntriesRequest: {
    fields: {
      filter: { type: 'EntryFilter', id: 1 },
      pageSize: { type: 'int32', id: 3 },
      pageToken: { type: 'string', id: 4 },
    },
  },
  ListEntriesResponse: {
    fields: { entries: { rule: 'repeated', type: 'Entry', id: 1 }, nextPageToken: { type: 'string', id: 2 } },
  },
  BatchCreateEntryRequest: { fields: { entries: { rule: 'repeated', type: 'Entry', id: 1 } } },
  CreateResult: { fields: { status: { type: 'Status', id: 1 }, entry: { type: 'Entry', id: 2 } } },
  BatchCreateEntryResponse: { fields: { results: { rule: 'repeated', type: 'CreateResult', id: 1 } } },
  BatchDeleteEntryRequest: { fields: { ids: { rule: 'repeated', type: 'string', id: 1 } } },
  DeleteResult: { fields: { status: { type: 'Status', id: 1 }, id: { type: 'string', id: 2 } } },
  BatchDeleteEntryResponse: { fields: { results: { rule: 'repeated', type: 'DeleteResult', id: 1 } } },
  CreateJoinTokenRequest: { fields: { ttl: { type: 'int32', id: 1 }, agentId: { type: 'SPIFFEID', id: 3 } } },
  DeleteAgentRequest: { fields: { id: { type: 'SPIFFEID', id: 1 } } },
  Empty: { fields: {} },
  JoinToken: { fields: { value: { type: 'string', id: 1 }, expiresAt: { type: 'int64', id: 2 } } },
  MintJWTSVIDRequest: {
    fields: {
      id: { type: 'SPIFFEID', id: 1 },
      audience: { rule: 'repeated', type: 'string', id: 2 },
      ttl: { type: 'int32', id: 3 },
    },
  },
  JWTSVID: { fields: { token: { type: 'string', id: 1 } } },
  MintJWTSVIDResponse: { fields: { svid: { type: 'JWTSVID', id: 1 } } },
  GetBundleRequest: { fields: {} },
  X509Certificate: { fields: { asn1: { type: 'bytes', id: 1 }, tainted: { type: 'bool', id: 2 } } },
  JWTKey: {
    fields: {
      publicKey: { type: 'bytes', id: 1 },
      keyId: { type: 'string', id: 2 },
      expiresAt: { type: 'int64', id: 3 },
      tainted: { type: 'bool', id: 4 },
    },
  },
  Bundle: {
    fields: {
      trustDomain: { type: 'string', id: 1 },
      x509Authorities: { rule: 'repeated', type: 'X509Certificate', id: 2 },
      jwtAuthorities: { rule: 'repeated', type: 'JWTKey', id: 3 },
    },
  },
};

/** One part of what an agent must see in a process to give it an identity, for example `unix` and `uid:1000`. */
export interface Selector {
  type: string;
  value: string;
}

/** A registration entry to be made: who, below which agent, gets which identity. */
export interface NewEntry {
  spiffeId: SpiffeId;
  parentId: SpiffeId;
  selectors: Selector[];
  /** Lifetime of JWT-SVIDs, in seconds. */
  jwtSvidTtl: number;
  /** Default: one that begins with {@link entryPrefix}. */
  id?: string;
}

/** A registration entry as SPIRE keeps it. */
export interface Entry extends NewEntry {
  id: string;
  admin: boolean;
  downstream: boolean;
}

/** A key with which SPIRE signs JWT-SVIDs. */
export interface JwtAuthority {
  keyId: string;
  /** SubjectPublicKeyInfo, DER. */
  publicKey: Buffer;
}

/** The authorities of the trust domain, without those that SPIRE no longer trusts. */
export interface Bundle {
  /** PEM. */
  x509: string;
  jwt: JwtAuthority[];
}

interface Status {
  code: number;
  message: string;
}

/** How many entries one call carries: gRPC messages end at 4 MiB, and 1,000 take about a second. */
const batch = 1000;
const deadline = 20_000;
/** For calls that carry a batch: on a busy machine a thousand entries take a multiple of their time. */
const batchDeadline = 60_000;

/**
 * Ids of entries that are made here begin with this, so that SPIRE's policy can tell them from those of others when they are to be
 * deleted: a request to delete holds ids alone.
 */
const entryPrefix = 'hpcs.';

/** A SPIRE server's admin API, as far as it is needed here. */
export class Spire implements Disposable {
  readonly #connection: SpireConnection;
  readonly #entry: SpireService;
  readonly #agent: SpireService;
  readonly #svid: SpireService;
  readonly #bundle: SpireService;

  /** @param reach how the server is reached; a text is the path of its private socket */
  constructor(reach: string | SpireReach) {
    const connection = new SpireConnection(typeof reach === 'string' ? { socket: reach } : reach);
    this.#connection = connection;
    const client = (area: string, service: string, methods: Record<string, MethodDescriptor>): SpireService =>
      new SpireService(connection, `spire.api.server.${area}.v1.${service}`, methods, messages);
    this.#entry = client('entry', 'Entry', {
      ListEntries: { requestType: 'ListEntriesRequest', responseType: 'ListEntriesResponse' },
      BatchCreateEntry: { requestType: 'BatchCreateEntryRequest', responseType: 'BatchCreateEntryResponse' },
      BatchDeleteEntry: { requestType: 'BatchDeleteEntryRequest', responseType: 'BatchDeleteEntryResponse' },
    });
    this.#agent = client('agent', 'Agent', {
      CreateJoinToken: { requestType: 'CreateJoinTokenRequest', responseType: 'JoinToken' },
      DeleteAgent: { requestType: 'DeleteAgentRequest', responseType: 'Empty' },
    });
    this.#svid = client('svid', 'SVID', {
      MintJWTSVID: { requestType: 'MintJWTSVIDRequest', responseType: 'MintJWTSVIDResponse' },
    });
    this.#bundle = client('bundle', 'Bundle', {
      GetBundle: { requestType: 'GetBundleRequest', responseType: 'Bundle' },
    });
  }

  /**
   * Makes registration entries. One that exists already counts as made.
   *
   * When one cannot be made, those of this call are deleted again before the error is thrown.
   *
   * @param report told after each call how many of them there are
   * @returns ids of the entries that did not exist before
   * @throws HpcsError `identity`
   */
  async createEntries(entries: readonly NewEntry[], report: (done: number) => void = () => undefined): Promise<string[]> {
    const made: string[] = [];
    try {
      for (let from = 0; from < entries.length; from += batch) {
        const wanted = entries.slice(from, from + batch);
        const answer = await ask(() =>
          this.#entry.call<{ results: { status: Status | null; entry: Entry | null }[] }>(
            'BatchCreateEntry',
            { entries: wanted.map((entry) => ({ ...entry, id: entry.id ?? `${entryPrefix}${randomUUID()}` })) },
            { timeout: batchDeadline },
          ),
        );
        // Note all that were made before looking at any that was not.
        for (const { status, entry } of answer.results) if (status?.code === grpcStatus.OK && entry !== null) made.push(entry.id);
        for (const [index, one] of wanted.entries()) {
          const result = answer.results[index];
          checkCreated(one, result?.status ?? null, result?.entry ?? null);
        }
        report(from + wanted.length);
      }
    } catch (error) {
      await this.deleteEntries(made).catch((second: unknown) => {
        const count = `${made.length} of ${entries.length} entries were made and could not be taken back after a failure`;
        throw new HpcsError('identity', 'spire-half-done', `${count}: ${messageOf(error)}`, {
          cause: new AggregateError([error, second]),
          suggestion: 'repeat the same request, which completes it',
        });
      });
      throw error;
    }
    return made;
  }

  /** Deletes entries. One that is gone already counts as deleted. @throws HpcsError `identity` */
  async deleteEntries(ids: readonly string[]): Promise<void> {
    for (let from = 0; from < ids.length; from += batch) {
      const answer = await ask(() =>
        this.#entry.call<{ results: { status: Status | null; id: string }[] }>(
          'BatchDeleteEntry',
          { ids: ids.slice(from, from + batch) },
          { timeout: batchDeadline },
        ),
      );
      for (const { status, id } of answer.results) {
        if (status?.code === grpcStatus.OK || status?.code === grpcStatus.NOT_FOUND) continue;
        throw refused(`deleting entry ${id}`, status);
      }
    }
  }

  /** All entries that give this identity. @throws HpcsError `identity` */
  async listEntries(spiffeId: SpiffeId): Promise<Entry[]> {
    const entries: Entry[] = [];
    let pageToken = '';
    do {
      const answer = await ask(() =>
        this.#entry.call<{ entries: Entry[]; nextPageToken: string }>(
          'ListEntries',
          { filter: { bySpiffeId: spiffeId }, pageSize: batch, pageToken },
          { timeout: batchDeadline },
        ),
      );
      entries.push(...answer.entries);
      pageToken = answer.nextPageToken;
    } while (pageToken !== '');
    return entries;
  }

  /**
   * Makes a token with which one agent can attest, once, and take this identity.
   *
   * @param ttl seconds
   * @throws HpcsError `identity`
   */
  async createJoinToken(agentId: SpiffeId, ttl: number): Promise<Secret> {
    const answer = await ask(() =>
      this.#agent.call<{ value: string }>('CreateJoinToken', { ttl, agentId }, { timeout: deadline }),
    );
    return new Secret(answer.value);
  }

  /**
   * Removes an agent: it gets no identities any more, neither its own nor those of its workloads. One that is gone counts as removed.
   *
   * @throws HpcsError `identity`
   */
  async deleteAgent(id: SpiffeId): Promise<void> {
    await ask(async () => {
      try {
        await this.#agent.call('DeleteAgent', { id }, { timeout: deadline });
      } catch (error) {
        if (!(error instanceof GrpcError && error.code === grpcStatus.NOT_FOUND)) throw error;
      }
    });
  }

  /**
   * Makes a token of an identity, without any agent or entry: what makes the caller that identity is for the caller of this to know.
   *
   * @param ttl seconds
   * @throws HpcsError `identity`
   */
  async mintJwtSvid(id: SpiffeId, audience: readonly string[], ttl: number): Promise<Secret> {
    const answer = await ask(() =>
      this.#svid.call<{ svid: { token: string } | null }>('MintJWTSVID', { id, audience, ttl }, { timeout: deadline }),
    );
    return new Secret(answer.svid?.token ?? '');
  }

  /** The trust domain's authorities. @throws HpcsError `identity` */
  async bundle(): Promise<Bundle> {
    const answer = await ask(() =>
      this.#bundle.call<{
        x509Authorities: { asn1: Buffer; tainted: boolean }[];
        jwtAuthorities: { publicKey: Buffer; keyId: string; expiresAt: number; tainted: boolean }[];
      }>('GetBundle', {}, { timeout: deadline }),
    );
    const now = Date.now() / 1000;
    return {
      x509: answer.x509Authorities
        .filter(({ tainted }) => !tainted)
        .map(({ asn1 }) => certificates(asn1))
        .join(''),
      jwt: answer.jwtAuthorities
        .filter(({ tainted, expiresAt }) => !tainted && (expiresAt === 0 || expiresAt > now))
        .map(({ keyId, publicKey }) => ({ keyId, publicKey })),
    };
  }

  [Symbol.dispose](): void {
    this.#connection[Symbol.dispose]();
  }
}

/** Text of a selector, as SPIRE's own tools write it. */
export function formatSelector({ type, value }: Selector): string {
  return `${type}:${value}`;
}

/** Reads `type:value`. */
export function parseSelector(text: string): Selector {
  const colon = text.indexOf(':');
  return { type: text.slice(0, colon), value: text.slice(colon + 1) };
}

function checkCreated(wanted: NewEntry, status: Status | null, entry: Entry | null): void {
  const what = describe(wanted);
  if (status?.code === grpcStatus.OK && entry !== null) return;
  if (status?.code !== grpcStatus.ALREADY_EXISTS || entry === null) throw refused(`making ${what}`, status);
  assertPlain(entry, what);
}

/**
 * Refuses an entry that gives more than an identity. SPIRE calls entries alike by identity, parent and selectors.
 *
 * @throws HpcsError `identity` `spire-entry-differs`
 */
export function assertPlain(entry: Entry, what = describe(entry)): void {
  if (!entry.admin && !entry.downstream) return;
  throw new HpcsError('identity', 'spire-entry-differs', `${what} exists with rights that it must not have`, {
    suggestion: 'an administrator of SPIRE must delete it',
  });
}

function describe({ spiffeId, parentId }: NewEntry): string {
  return `the entry ${formatSpiffeId(spiffeId)} on ${formatSpiffeId(parentId)}`;
}

async function ask<Answer>(call: () => Promise<Answer>): Promise<Answer> {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof GrpcError)) throw error;
    const down = error.code === grpcStatus.UNAVAILABLE || error.code === grpcStatus.DEADLINE_EXCEEDED;
    throw new HpcsError(
      'identity',
      down ? 'spire-unavailable' : 'spire-refused',
      down ? 'the SPIRE server does not answer' : `the SPIRE server refused: ${error.message}`,
      { cause: error, suggestion: 'check section [spire-server], that the SPIRE server runs, and what its policy allows' },
    );
  }
}

function refused(doing: string, status: Status | null): HpcsError {
  const why = status === null ? 'no status' : `${grpcStatus[status.code] ?? status.code}: ${status.message}`;
  return new HpcsError('identity', 'spire-refused', `the SPIRE server refused ${doing} (${why})`, {
    suggestion: 'look into the log of the SPIRE server, and at what its policy allows',
  });
}
