import { z } from 'zod';
import { HpcsError } from './errors.ts';
import { HttpClient, type HttpAnswer, type HttpOptions } from './http.ts';
import type { Prover } from './identity/proof.ts';
import { printableLine } from './report.ts';
import { Secret } from './secret.ts';

/** What a new client gets. */
export interface Registration {
  /** 9 hex characters. */
  clientId: string;
  /** SPIFFE ID of the client's agent. */
  spiffeId: string;
  joinToken: Secret;
}

/** Who may read a secret: every user and every group, on every node. */
export interface WorkloadRequest {
  /** JWT-SVID of the client's workload for the HPCS server's audience. */
  jwt: Secret;
  /** Secret name. */
  secret: string;
  users: readonly string[];
  groups: readonly string[];
  computeNodes: readonly string[];
}

/** A grant that stands. */
export interface Workloads {
  /** SPIFFE ID of the readers. */
  spiffeId: string;
  /** Path below `kv/data/` in the vault. */
  secretPath: string;
  /** The readers' role in the vault. */
  role: string;
}

/** What must hold for a grant to let a job in. */
export interface Conditions {
  /** SHA-512 (hex) of the sealed image that the job must run. */
  image?: string | undefined;
  /** RFC 3339 time at which the grant ends. */
  until?: string | undefined;
  /** Jobs that may use it, in all. */
  jobs?: number | undefined;
}

/** Clients who may use a secret in their jobs: by id, by the name they were enrolled under, or by group. */
export interface PermitRequest extends Conditions {
  secret: string;
  clients: readonly string[];
  groups: readonly string[];
}

/** What is to be taken back of a secret: the grants of these ids, what was granted to these clients and groups, or all. */
export interface RevokeRequest {
  /** `client_<id>/<secret>`. */
  secretPath: string;
  grants: readonly string[];
  clients: readonly string[];
  groups: readonly string[];
  all: boolean;
}

/** A job as its submitter registers it. */
export interface JobRegistration {
  /** The scheduler's job id. */
  job: string;
  /** SHA-256 of its ticket, hex. */
  ticket: string;
  artefacts: readonly { role: 'image' | 'data' | 'job'; secret_path: string; sha512?: string | undefined }[];
  /** Whether its ticket opens nothing without a proof of its submitter. */
  connected?: boolean;
}

/** An OpenID Connect issuer whose tokens the server takes. */
export interface LoginIssuer {
  /** Alias, as in names of its people. */
  name: string;
  kind: string;
  /** Its URL, exactly as in its tokens. */
  issuer: string;
  /** Whom tokens must be for; for people also the id of the OAuth client. */
  audience: string;
  scope: string;
}

const registration = z.object({ client_id: z.string().regex(/^[0-9a-f]{9}$/), spiffeID: z.string(), token: z.string().min(1) });
const nodeToken = z.object({ spiffeID: z.string(), token: z.string().min(1) });
const workloads = z.object({ spiffeID: z.string(), secrets_path: z.string(), user_role: z.string() });
const enrolled = z.object({
  client_id: z.string().regex(/^[0-9a-f]{9}$/),
  name: z.string(),
  spiffeID: z.string(),
  trust_domain: z.string(),
});
const loggedIn = enrolled.extend({ expires: z.iso.datetime() });
const loggedOut = z.object({});
const loginIssuers = z.object({
  issuers: z.array(z.object({ name: z.string(), kind: z.string(), issuer: z.string(), audience: z.string(), scope: z.string() })),
});
const clientToken = z.object({ spiffeID: z.string(), token: z.string().min(1) });
const permitted = z.object({
  secrets_path: z.string(),
  user_role: z.string(),
  spiffeID: z.string(),
  clients: z.record(z.string(), z.string()),
});
const resolved = z.object({ clients: z.record(z.string(), z.string().nullable()) });
const registeredJob = z.object({ spiffeID: z.string() });
const redeemed = z.object({ records: z.base64() });
// A server before this one does not say whether a ticket had come.
const endedJob = z.object({ stolen: z.boolean(), redeemed: z.boolean().default(false) });
const secretAccess = z.object({
  secret_path: z.string(),
  grants: z.array(
    z.object({
      id: z.string(),
      clients: z.array(z.object({ id: z.string(), name: z.string().nullable() })),
      groups: z.array(z.string()),
      image: z.string().optional(),
      until: z.string().optional(),
      jobs: z.int().optional(),
      used: z.int(),
      created: z.string(),
    }),
  ),
  readers: z.array(z.object({ node: z.string(), selector: z.string() })),
});
/** Who may use one secret: clients in their jobs under what conditions, and in agent mode readers on nodes. */
export type SecretAccess = z.output<typeof secretAccess>;
const listed = z.object({ artefacts: z.array(secretAccess) });
const added = z.object({ grant: z.string(), clients: z.record(z.string(), z.string()) });
const takenBack = z.object({ revoked: z.int(), still: z.array(z.string()), readers: z.int() });
const done = z.object({});
const capabilities = z.object({ capabilities: z.array(z.string()) });
const trustBundle = z.object({ trust_bundle: z.string().includes('-----BEGIN CERTIFICATE-----') });
// A server before this one gives no code.
const refusal = z.object({ message: z.string(), code: z.string().optional() });

/** A grant to ten thousand readers takes SPIRE a minute or more, in milliseconds. */
const patience = 180_000;

/** The HPCS server's API, as far as clients and nodes use it. */
export class HpcsServer implements AsyncDisposable {
  readonly #http: HttpClient;

  constructor(options: Omit<HttpOptions, 'name'>) {
    this.#http = new HttpClient({ timeout: patience, ...options, name: 'HPCS server' });
  }

  /**
   * Makes the caller a client: a join token for its agent, and an entry for its workload.
   *
   * @param options.uid the user id the workload will have; without it the server's configured selectors decide
   * @throws HpcsError `identity` when refused
   */
  async register(options: { uid?: number | undefined; signal?: AbortSignal | undefined } = {}): Promise<Registration> {
    const body = options.uid === undefined ? {} : { uid: options.uid };
    const answer = await this.#post('/api/client/register', registration, body, options.signal);
    return { clientId: answer.client_id, spiffeId: answer.spiffeID, joinToken: new Secret(answer.token) };
  }

  /**
   * Lets users and groups on nodes read one secret of this client. May be repeated.
   *
   * @param request.onProgress told how many of the readers there are, by servers that tell
   * @throws HpcsError `identity` when refused
   */
  async createWorkloads(
    request: WorkloadRequest & {
      signal?: AbortSignal | undefined;
      onProgress?: ((done: number, total: number) => void) | undefined;
    },
  ): Promise<Workloads> {
    const { signal, onProgress } = request;
    const body = {
      jwt: request.jwt.reveal(),
      secret: request.secret,
      users: request.users.length > 0 ? request.users : null,
      groups: request.groups.length > 0 ? request.groups : null,
      compute_nodes: request.computeNodes,
    };
    const path = '/api/client/create-workloads';
    const answer = this.#check(await this.#http.json('POST', path, { body, signal, onProgress }), workloads);
    return { spiffeId: answer.spiffeID, secretPath: answer.secrets_path, role: answer.user_role };
  }

  /**
   * A join token for the agent of a compute node: as the original asks for it, or with a proof, at servers that allow it for this host.
   *
   * @throws HpcsError `identity` when refused
   */
  async nodeToken(hostname: string, signal?: AbortSignal, prove?: Prover): Promise<{ spiffeId: string; joinToken: Secret }> {
    const path = '/api/agents/token';
    const answer =
      prove === undefined
        ? await this.#post(`${path}?hostname=${encodeURIComponent(hostname)}`, nodeToken, undefined, signal)
        : await this.#post(path, nodeToken, { hostname }, signal, prove);
    return { spiffeId: answer.spiffeID, joinToken: new Secret(answer.token) };
  }

  /**
   * Enrols the key that proves this call.
   *
   * @param token one-time token
   * @throws HpcsError `identity` when refused, with code `hpcs-key-ended` for a key that was revoked, `hpcs-key-conflict` for one that counts otherwise
   */
  async enrol(
    token: Secret,
    prove: Prover,
    signal?: AbortSignal,
  ): Promise<{ clientId: string; name: string; spiffeId: string; trustDomain: string }> {
    const answer = await this.#post('/api/client/enrol', enrolled, { token: token.reveal() }, signal, prove);
    return { clientId: answer.client_id, name: answer.name, spiffeId: answer.spiffeID, trustDomain: answer.trust_domain };
  }

  /** The issuers whose tokens the server takes; none from one that takes none. @throws HpcsError `identity` */
  async issuers(signal?: AbortSignal): Promise<LoginIssuer[]> {
    return (await this.#get('/api/login', loginIssuers, signal))?.issuers ?? [];
  }

  /**
   * Makes the key that proves this call one of the client whom a token is for, for a while.
   *
   * @param token ID token of one of {@link issuers}, tied to the key where its issuer can
   * @returns with the time (RFC 3339) from which the key counts no more
   * @throws HpcsError `identity` when refused
   */
  async login(
    token: Secret,
    prove: Prover,
    signal?: AbortSignal,
  ): Promise<{ clientId: string; name: string; spiffeId: string; trustDomain: string; expires: string }> {
    const answer = await this.#post('/api/client/login', loggedIn, { id_token: token.reveal() }, signal, prove);
    const { client_id: clientId, name, spiffeID: spiffeId, trust_domain: trustDomain, expires } = answer;
    return { clientId, name, spiffeId, trustDomain, expires };
  }

  /** Ends what {@link login} began for the key that proves this call. @throws HpcsError `identity` when refused */
  async logout(prove: Prover, signal?: AbortSignal): Promise<void> {
    await this.#post('/api/client/logout', loggedOut, {}, signal, prove);
  }

  /** A JWT-SVID of the client that proves this call. @throws HpcsError `identity` when refused */
  async clientToken(audience: string, prove: Prover, signal?: AbortSignal): Promise<Secret> {
    return new Secret((await this.#post('/api/client/token', clientToken, { audience }, signal, prove)).token);
  }

  /** The ids of the clients that names stand for; null for a name that is nobody's. @throws HpcsError `identity` when refused */
  async resolve(names: readonly string[], prove: Prover, signal?: AbortSignal): Promise<Record<string, string | null>> {
    return (await this.#post('/api/client/resolve', resolved, { clients: names }, signal, prove)).clients;
  }

  /**
   * Lets clients use one secret of the caller in their jobs. May be repeated.
   *
   * @returns with the client id that each name stands for
   * @throws HpcsError `identity` when refused
   */
  async permit(
    request: PermitRequest,
    prove: Prover,
    signal?: AbortSignal,
  ): Promise<{ spiffeId: string; secretPath: string; role: string; clients: Record<string, string> }> {
    const answer = await this.#post('/api/client/grants', permitted, request, signal, prove);
    return { spiffeId: answer.spiffeID, secretPath: answer.secrets_path, role: answer.user_role, clients: answer.clients };
  }

  /** Registers a submitted job of the caller. @returns its SPIFFE ID @throws HpcsError `identity` when refused */
  async registerJob(job: JobRegistration, prove: Prover, signal?: AbortSignal): Promise<string> {
    return (await this.#post('/api/jobs', registeredJob, job, signal, prove)).spiffeID;
  }

  /**
   * Trades a ticket for the records of its job.
   *
   * @param request.key age recipient of the job
   * @param request.prove proves who redeems: for jobs of connected mode, their submitter
   * @returns the records as JSON, sealed to that key
   * @throws HpcsError `identity` when refused, `integrity` `record-mismatch` where the vault has others than were submitted
   */
  async redeem(
    request: { halves: readonly [script: Secret, file: Secret]; job: string; key: string; prove?: Prover },
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const { halves, job, key, prove } = request;
    const body = { halves: halves.map((half) => half.reveal()), job, key };
    return Buffer.from((await this.#post('/api/jobs/redeem', redeemed, body, signal, prove)).records, 'base64');
  }

  /**
   * Ends what a job of the caller may do. One that is not known counts as ended.
   *
   * @param ticket SHA-256 of its ticket, hex
   * @returns whether the ticket had come with two keys: somebody else had it; and whether it had come at all
   * @throws HpcsError `identity` when refused
   */
  async endJob(ticket: string, prove: Prover, signal?: AbortSignal): Promise<{ stolen: boolean; redeemed: boolean }> {
    const { stolen, redeemed } = await this.#post('/api/jobs/end', endedJob, { ticket }, signal, prove);
    return { stolen, redeemed };
  }

  /**
   * Who may use a secret of the caller's; without one, all of them that clients may use.
   *
   * @throws HpcsError `identity` when refused; code `hpcs-not-found` where there is none
   */
  async listAccess(secretPath: string | undefined, prove: Prover, signal?: AbortSignal): Promise<SecretAccess[]> {
    return (await this.#post('/api/access/list', listed, { secret_path: secretPath }, signal, prove)).artefacts;
  }

  /** Adds a grant to those of a secret of the caller's. @returns its id @throws HpcsError `identity` when refused */
  async addGrant(
    secretPath: string,
    { clients, groups, image, until, jobs }: Omit<PermitRequest, 'secret'>,
    prove: Prover,
    signal?: AbortSignal,
  ): Promise<{ grant: string; clients: Record<string, string> }> {
    const body = { secret_path: secretPath, clients, groups, image, until, jobs };
    const { grant, clients: ids } = await this.#post('/api/access/grant', added, body, signal, prove);
    return { grant, clients: ids };
  }

  /**
   * Takes grants of a secret of the caller's back.
   *
   * @returns how many there were, how many readers of agent mode, and which of the clients named still may by another grant
   * @throws HpcsError `identity` when refused
   */
  async revokeAccess(
    { secretPath, grants, clients, groups, all }: RevokeRequest,
    prove: Prover,
    signal?: AbortSignal,
  ): Promise<{ revoked: number; readers: number; still: string[] }> {
    const body = { secret_path: secretPath, grants, clients, groups, all };
    const { revoked, readers, still } = await this.#post('/api/access/revoke', takenBack, body, signal, prove);
    return { revoked, readers, still };
  }

  /** Destroys a secret of the caller's, for good. One that is gone counts as destroyed. @throws HpcsError `identity` when refused */
  async destroySecret(secretPath: string, prove: Prover, signal?: AbortSignal): Promise<void> {
    await this.#post('/api/access/destroy', done, { secret_path: secretPath }, signal, prove);
  }

  /** What the server can beyond the calls of the original, which can nothing beyond. @throws HpcsError `identity` */
  async capabilities(signal?: AbortSignal): Promise<string[]> {
    return (await this.#get('/api/capabilities', capabilities, signal))?.capabilities ?? [];
  }

  /** PEM text of the SPIRE server's authorities, or undefined from a server that does not hand them out. */
  async trustBundle(signal?: AbortSignal): Promise<string | undefined> {
    return (await this.#get('/api/trust-bundle', trustBundle, signal))?.trust_bundle;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http[Symbol.asyncDispose]();
  }

  async #post<Shape extends z.ZodType>(
    path: string,
    shape: Shape,
    body: unknown,
    signal: AbortSignal | undefined,
    prove?: Prover,
  ): Promise<z.output<Shape>> {
    return this.#check(await this.#http.json('POST', path, { body, signal, prove }), shape);
  }

  // Undefined where the server does not know the call.
  async #get<Shape extends z.ZodType>(
    path: string,
    shape: Shape,
    signal: AbortSignal | undefined,
  ): Promise<z.output<Shape> | undefined> {
    const answer = await this.#http.json('GET', path, { signal });
    return answer.status === 404 ? undefined : this.#check(answer, shape);
  }

  // The original reports failures with status 200 and `success: false`, once even as the text "false".
  #check<Shape extends z.ZodType>(answer: HttpAnswer, shape: Shape): z.output<Shape> {
    const success = z.object({ success: z.literal(true) }).safeParse(answer.body).success;
    if (answer.status !== 200 || !success) throw this.#refused(answer);
    const parsed = shape.safeParse(answer.body);
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    throw new HpcsError(
      'identity',
      'bad-answer',
      `the HPCS server at ${this.#http.url} answered without a usable ${issue?.path.join('.') ?? 'body'}`,
      { suggestion: 'check the versions of client and server' },
    );
  }

  #refused(answer: HttpAnswer): HpcsError {
    const parsed = refusal.safeParse(answer.body);
    const message = parsed.success ? printableLine(parsed.data.message, 500) : 'no reason given';
    const named = parsed.success && parsed.data.code !== undefined ? coded.get(parsed.data.code) : undefined;
    const [code, suggestion] = named ?? refusals[answer.status] ?? (answer.status > 500 ? unavailable : unforeseen);
    return new HpcsError(
      answer.status === 422 ? 'integrity' : 'identity',
      code,
      `the HPCS server at ${this.#http.url} refused (${answer.status}): ${message}`,
      { suggestion },
    );
  }
}

/** Whether the server said no to a call, and has done nothing of it: other failures may leave it done, or half done. */
export function isRefusedCall(error: unknown): boolean {
  // Other words than its own, such as 408, may be those of a proxy before it. The original's no, with status 200, is one of these.
  const unknown = ['hpcs-unavailable', 'hpcs-refused'];
  return error instanceof HpcsError && error.code.startsWith('hpcs-') && !unknown.includes(error.code);
}

type Told = readonly [code: string, suggestion: string];

/** Refusals that the server names by a code of its own. */
const coded: ReadonlyMap<string, Told> = new Map([
  ['key-ended', ['hpcs-key-ended', 'come with a new key: enrol or log in again']],
  ['key-conflict', ['hpcs-key-conflict', 'come with a new key: remove the one whose enrolment was begun (client-key.json.new in the state directory) and enrol again, or log in again']], // prettier-ignore
]);

const unavailable: Told = ['hpcs-unavailable', 'try again; a service behind the server refused, which its log tells'];
const unforeseen: Told = ['hpcs-refused', 'ask those who run the HPCS server, whose log has the reason'];

const refusals: Readonly<Record<number, Told>> = {
  400: ['hpcs-bad-request', 'correct the named value'],
  401: [
    'hpcs-unauthenticated',
    'log in (hpcs login) or enrol this client (hpcs enrol); check the clocks of client and server, and audience in section [hpcs-server]',
  ],
  403: [
    'hpcs-forbidden',
    'ask whoever owns what was refused; to enrol this client (hpcs enrol), ask those who run the HPCS server',
  ],
  404: ['hpcs-not-found', 'check that it was not withdrawn, and that the server is a current one'],
  409: [
    'hpcs-conflict',
    'prepare the artefact or submit the job again: it gets a new name; where that helps nothing, ask those who run the HPCS server',
  ],
  413: ['hpcs-too-large', 'name fewer readers'],
  422: [
    'record-mismatch',
    'the info record was altered, or names another artefact: prepare it again, or submit with the right one',
  ],
  429: ['hpcs-busy', 'try again later; end jobs that will not come for their keys: hpcs job cancel'],
  500: ['hpcs-unavailable', 'try again; the reason stands in the log of the server'],
  502: unavailable,
  503: ['hpcs-unavailable', 'try again; its administrators see in /readyz which part is down'],
};
